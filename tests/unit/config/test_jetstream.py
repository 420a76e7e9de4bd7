"""`[jetstream]`: its settings, and errors that name their key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tracker.config.load import Config, read
from tracker.errors import ConfigInvalid

ENGINE = '[log]\nengine = "jetstream"\n'


def config(text: str, tmp_path: Path, **environ: str) -> Config:
    return read(tomllib.loads(ENGINE + text), tmp_path / "config.toml", environ)


def test_everything_has_a_default(tmp_path: Path) -> None:
    found = config("", tmp_path).jetstream
    assert (found.servers, found.stream, found.replicas) == (("nats://127.0.0.1:4222",), "tracker", 3)
    assert (found.behind_at_most, found.signs, found.monitoring) == (10.0, True, ())
    assert found.node


def test_secrets_come_from_files_and_the_environment_and_are_never_printed(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hidden-password\n")
    text = '[jetstream]\nuser = "tracker"\npassword_file = "password"\nnode = "a"\nbehind_at_most = "1m"'
    found = config(text, tmp_path).jetstream
    assert (found.user, found.password, found.node, found.behind_at_most) == ("tracker", "hidden-password", "a", 60.0)
    assert "hidden-password" not in repr(found)
    assert "hidden-password" not in repr(config(text, tmp_path))
    assert config('[jetstream]\ntoken_env = "NATS_TOKEN"', tmp_path, NATS_TOKEN="t").jetstream.token == "t"


WRONG = {
    "servers = []": ("jetstream.servers", "all of the cluster"),
    'servers = ["nats://me:hidden@host:4222"]': ("jetstream.servers[0]", "password_file"),
    'servers = ["http://host"]': ("jetstream.servers[0]", "nats://"),
    'stream = "a.b"': ("jetstream.stream", "letters"),
    'node = "a b"': ("jetstream.node", "letters"),
    "replicas = 0": ("jetstream.replicas", ">= 1"),
    'monitoring = ["nats-1.example:8222"]': ("jetstream.monitoring[0]", "http://"),
    'behind_at_most = "soon"': ("jetstream.behind_at_most", "duration"),
    'user = "me"': ("jetstream.user", "password_file"),
    'password_env = "SET"': ("jetstream.password_env", "password_file"),
    'password_env = "SET_IT"': ("jetstream.user", "user and password"),
    'password_env = "SET"\npassword_file = "x"': ("jetstream.password_file", "keep one"),
    'user = "me"\npassword_env = "NOT_SET"': ("jetstream.password_env", "not set"),
    'user = "me"\npassword_env = "SET_IT"\ntoken_env = "SET_IT"': ("jetstream.token_env", "keep one way"),
    'credentials_file = "none.creds"': ("jetstream.credentials_file", "cannot be read"),
    'tls_cert = "c.pem"': ("jetstream.tls_cert", "tls_key"),
    'server = "x"': ("jetstream.server", "did you mean 'servers'"),
}


@pytest.mark.parametrize("text", WRONG)
def test_an_error_names_its_key_and_a_fix(text: str, tmp_path: Path) -> None:
    key, advice = WRONG[text]
    with pytest.raises(ConfigInvalid) as refused:
        config(f"[jetstream]\n{text}", tmp_path, SET_IT="hidden")
    assert str(refused.value).startswith(f"{key}: ")
    assert advice in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_cluster_encrypts_like_a_single_server(tmp_path: Path) -> None:
    found = config(f'[sealing]\nkeys = [{{ id = "a", secret = "{"ab" * 32}" }}]', tmp_path)
    assert [each.id for each in found.sealing.masters] == ["a"]

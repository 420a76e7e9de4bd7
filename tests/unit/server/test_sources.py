"""Sources with wrong settings for their vendor are refused at start, with an error that names the key and a fix, no secret."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tracker.config import load
from tracker.errors import ConfigInvalid
from tracker.server.sources import build_sources, check_sources, load_config
from tracker.sources import registry


def read(text: str) -> load.Config:
    config = load.read(tomllib.loads(text), Path("/nowhere/config.toml"), {})
    check_sources(config)
    return config


def source(lines: str, vendor: str = "streamrec", name: str = "a") -> str:
    return f'[[sources]]\nname = "{name}"\nvendor = "{vendor}"\n{lines}\n'


MISTAKES = {
    # the file's text → the key in the error, and a word of the fix
    source("", "livekit"): ("sources[0].keys", "needs keys"),
    source(""): ("sources[0].secret", "needs secret, secret_env or secret_file"),
    source('keys = { a = "SECRET" }'): ("sources[0].keys", "use secret"),
    source('secret = "SECRET"', "plugnmeet"): ("sources[0].secret", "use keys"),
    source('secret = "SECRET"\nheader = "X"'): ("sources[0].header", "remove the key"),
    source('secret = "SECRET"', "open_vidu"): ("sources[0].vendor", "'openvidu'"),
    source('secret = "SECRET"', "zoom"): ("sources[0].vendor", "known are openvidu"),
    source('secret = "SECRET"', name="tracker"): ("sources[0].name", "choose another name"),
    source('secret = "SECRET"', "openvidu") + source("", name="b"): ("sources[1].secret", "needs secret"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_an_error_names_its_key_and_a_fix_and_no_secret(text: str) -> None:
    key, fix = MISTAKES[text]
    with pytest.raises(ConfigInvalid) as raised:
        read(text)
    message = str(raised.value)
    assert message.startswith(f"{key}: ")
    assert fix in message
    assert "SECRET" not in message


def test_reading_the_file_checks_its_sources(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(source('secret = "SECRET"', "zoom"))
    with pytest.raises(ConfigInvalid, match="'zoom' is unknown; known are openvidu"):
        load_config(path, {})


def test_only_vendors_with_a_configurable_header_accept_one() -> None:
    assert read(source('secret = "SECRET"\nheader = "X-Hook-Key"', "openvidu")).sources[0].header == "X-Hook-Key"
    assert {name for name, vendor in registry.VENDORS.items() if vendor.accepts_header} == {"openvidu"}


def test_sources_are_built_by_name() -> None:
    config = read(source('secret = "SECRET"') + source('keys = { a = "SECRET" }', "livekit", "b"))
    assert {name: built.vendor for name, built in build_sources(config).items()} == {"a": "streamrec", "b": "livekit"}


def test_the_example_that_init_writes_is_in_the_package_and_config_toml_is_a_link_to_it() -> None:
    packaged = resources.files("tracker.config") / "example.toml"
    assert (ROOT / "config.toml").is_symlink()
    assert (ROOT / "config.toml").read_bytes() == packaged.read_bytes()

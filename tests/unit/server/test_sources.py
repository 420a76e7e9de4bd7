"""Sources with wrong settings for their vendor are refused at start, with an error that names the key and a fix, no secret."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tracker.config import load
from tracker.errors import ConfigInvalid
from tracker.server.sources import build_sources, check_sources, load_config, secret_warnings
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
    source('secret = "SECRET"'): ("sources[0].secret", "openssl rand -hex 32"),
    source('secrets = ["SECRET-of-16-or-more", "SECRET-of-15-ch"]'): ("sources[0].secrets", "shorter than 16"),
    source('secret = "SECSECSECSECSECSECSEC"'): ("sources[0].secret", "repeats"),
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
    assert {name for name, vendor in registry.VENDORS.items() if "header" in vendor.accepts} == {"openvidu", "jitsi"}


def test_sources_are_built_by_name() -> None:
    config = read(source('secret = "SECRET-of-16-or-more"') + source('keys = { a = "SECRET" }', "livekit", "b"))
    assert {name: built.vendor for name, built in build_sources(config).items()} == {"a": "streamrec", "b": "livekit"}


def test_the_example_that_init_writes_is_in_the_package_and_config_toml_is_a_link_to_it() -> None:
    packaged = resources.files("tracker.config") / "example.toml"
    assert (ROOT / "config.toml").is_symlink()
    assert (ROOT / "config.toml").read_bytes() == packaged.read_bytes()


STRONG = "0f8d2c5b7a91e3d4"

WEAK = {
    # vendor → its well-known secrets, as lines of config.toml
    "openvidu": ('secret = "MY_SECRET"', 'secret = "Basic T1BFTlZJRFVBUFA6TVlfU0VDUkVU"'),
    "openvidu_meet": ('secret = "meet-api-key"', f'secrets = ["{STRONG}", "meet-api-key"]'),
    "livekit": ('keys = { devkey = "secret" }', f'keys = {{ a = "{STRONG}", devkey = "secret" }}'),
    "plugnmeet": ('keys = { plugnmeet = "zumyyYWqv7KR2kUqvYdq4z4sXg7XTBD2ljT6" }',),
}


@pytest.mark.parametrize(("vendor", "lines"), [(vendor, lines) for vendor, given in WEAK.items() for lines in given])
def test_a_vendors_well_known_secret_starts_with_a_warning(vendor: str, lines: str) -> None:
    warnings = secret_warnings(read(source(lines, vendor)))
    assert list(warnings) == ["a"]
    assert "well-known" in warnings["a"]
    assert "openssl rand -hex 32" in warnings["a"]


@pytest.mark.parametrize("vendor", sorted(WEAK))
def test_a_vendors_short_secret_starts_with_a_warning_and_a_long_one_without(vendor: str) -> None:
    def lines(secret: str) -> str:
        return f'keys = {{ a = "{secret}" }}' if registry.VENDORS[vendor].needs == "keys" else f'secret = "{secret}"'

    for secret in ("a1b2c3", STRONG[:-1], "aaaaaaaaaaaaaaaaaaaaaaaa"):
        assert "fewer" in secret_warnings(read(source(lines(secret), vendor)))["a"]
        assert secret not in secret_warnings(read(source(lines(secret), vendor)))["a"]
    assert secret_warnings(read(source(lines(STRONG), vendor))) == {}


SECRETS_OF_A_CONSOLE = {"jaas", "declared"}
"""Vendors whose console makes the secret; no example of theirs has one."""


def test_every_vendor_declares_its_well_known_secrets_or_that_its_operator_invents_them() -> None:
    for vendor in registry.VENDORS.values():
        assert vendor.known_secrets or vendor.least_secret >= 16 or vendor.name in SECRETS_OF_A_CONSOLE

"""config.toml and docs/reference/configuration.md list exactly the keys that `tracker/config/load.py` reads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from tests.support.paths import DOCS, ROOT
from tracker.sources import registry
from tracker.config import load, evidence, jetstream, encryption, schema

PAGE = DOCS / "reference" / "configuration.md"
EXAMPLE = ROOT / "config.toml"
TABLES = {
    "[server]": schema.ServerTable,
    "[log]": schema.LogTable,
    "[jetstream]": jetstream.JetstreamTable,
    "[views]": schema.ViewsTable,
    "[evidence]": evidence.EvidenceTable,
    "[sealing]": encryption.SealingTable,
    "[sealing] keys": encryption.MasterTable,
    "[access]": schema.AccessTable,
    "[access] keys": schema.KeyTable,
    "[[sources]]": schema.SourceTable,
}
SECRETS = {
    "OPENVIDU_HOOK_SECRET": "s", "MEET_API_KEYS": "s,t", "STREAMREC_HOOK_TOKEN": "0123456789abcdef", "JITSI_HOOK_SECRET": "0123456789abcdef", "JAAS_SIGNING_SECRET": "s", "ZOOM_SECRET_TOKEN": "s", "BBB_SHARED_SECRET": "s", "TRACKER_READ_KEY": "0123456789abcdef" * 2,
    "TRACKER_MASTER_KEY": "ab" * 32,
}  # fmt: skip


def sections() -> dict[str, str]:
    """Heading → its text, for headings that name a table of the file."""
    parts = re.split(r"^#{2,3} `(.+?)`.*$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(section: str) -> set[str]:
    """The keys in the first column of the section's first table."""
    table = re.search(r"^\| key \|.*\n\|[-|]+\n((?:\|.*\n)+)", section, re.MULTILINE)
    rows = [] if table is None else table[1].splitlines()
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_the_page_has_a_section_for_every_table_and_no_other() -> None:
    assert set(sections()) == set(TABLES)
    assert {field.name for field in msgspec.structs.fields(schema.FileTables)} == {
        name.strip("[]").split("]")[0] for name in TABLES
    }


@pytest.mark.parametrize("name", TABLES)
def test_the_page_names_every_key_of_a_table_and_no_other(name: str) -> None:
    assert documented(sections()[name]) == {field.name for field in msgspec.structs.fields(TABLES[name])}


@pytest.mark.parametrize("name", TABLES)
def test_the_page_gives_the_defaults_there_are(name: str) -> None:
    for field in msgspec.structs.fields(TABLES[name]):
        if isinstance(field.default, str | int):
            row = next(line for line in sections()[name].splitlines() if line.startswith(f"| `{field.name}`"))
            shown = f'"{field.default}"' if isinstance(field.default, str) else str(field.default).lower()
            assert f"`{shown}`" in row


def test_every_toml_block_of_the_page_holds_known_keys_only() -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        load._expect_known(tomllib.loads(block), schema.FileTables, "")  # noqa: SLF001


def test_the_example_starts_on_a_fresh_machine() -> None:
    found = load.load(EXAMPLE, {})
    assert found.server.is_loopback
    assert found.sources == ()
    assert found.log.path == ROOT / "data" / "log.db"
    assert load.read({}, EXAMPLE, {}) == found, "the example states the defaults"


def test_the_example_with_everything_uncommented_loads_all_vendors(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    for name in ("livekit", "plugnmeet"):
        (tmp_path / "secrets" / f"{name}.toml").write_text('APIxxxxxxxx = "s"\n')
    code = re.compile(r"^# (?=\[|[a-z_]+ = )", re.MULTILINE)
    (tmp_path / "config.toml").write_text(code.sub("", EXAMPLE.read_text("utf-8")))
    found = load.load(tmp_path / "config.toml", SECRETS)
    assert {source.vendor for source in found.sources} == set(registry.VENDORS)
    assert [key.id for key in found.access.keys] == ["main"]

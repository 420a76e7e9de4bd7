"""config.toml: the example of the design loads, and every error names its key and a fix, but no secret."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from tracker.config import load, schema
from tracker.errors import ConfigInvalid

EXAMPLE = """
[server]
host = "127.0.0.1"
port = 8080
max_body_bytes = 4194304

[log]
engine = "sqlite"
path = "data/log.db"

[views]
path = "data/views.db"

[access]
keys = [{ id = "main", algorithm = "HS256", secret_env = "TRACKER_READ_KEY" }]

[[sources]]
name = "ov"
vendor = "openvidu"
header = "Authorization"
secret_env = "OPENVIDU_HOOK_SECRET"
stuck_after = "12h"

[[sources]]
name = "meet"
vendor = "openvidu_meet"
secrets = ["SECRET-meet-1", "SECRET-meet-2"]

[[sources]]
name = "lk"
vendor = "livekit"
keys = { APIdevFixture01 = "SECRET-lk" }

[[sources]]
name = "pnm"
vendor = "plugnmeet"
keys = { plugnmeet = "SECRET-pnm" }

[[sources]]
name = "rec"
vendor = "streamrec"
secret = "SECRET-rec"
"""
ENVIRON = {
    "TRACKER_READ_KEY": "SECRET-read-key-of-thirty-two-bytes",
    "OPENVIDU_HOOK_SECRET": "SECRET-ov",
    "EMPTY_SECRET": "",
    "SHORT_SECRET": "SECRET",
}
PATH = Path("/nowhere/config.toml")


def read(text: str, environ: dict[str, str] | None = None) -> load.Config:
    return load.read(tomllib.loads(text), PATH, ENVIRON if environ is None else environ)


def source(lines: str, vendor: str = "streamrec") -> str:
    return f'[[sources]]\nname = "a"\nvendor = "{vendor}"\n{lines}\n'


def test_the_example_of_the_design_loads() -> None:
    found = read(EXAMPLE)
    assert (found.server.host, found.server.port, found.server.max_body_bytes) == ("127.0.0.1", 8080, 4 * 1024 * 1024)
    assert found.server.is_loopback
    assert found.log.path == Path("/nowhere/data/log.db")
    assert found.views_path == Path("/nowhere/data/views.db")
    assert found.access.keys[0].secret == "SECRET-read-key-of-thirty-two-bytes"
    assert [(each.name, each.vendor, each.secrets, each.keys) for each in found.sources] == [
        ("ov", "openvidu", ("SECRET-ov",), {}),
        ("meet", "openvidu_meet", ("SECRET-meet-1", "SECRET-meet-2"), {}),
        ("lk", "livekit", (), {"APIdevFixture01": "SECRET-lk"}),
        ("pnm", "plugnmeet", (), {"plugnmeet": "SECRET-pnm"}),
        ("rec", "streamrec", ("SECRET-rec",), {}),
    ]
    assert found.source("ov").stuck_after == 12 * 3600 * 1_000_000


def test_an_empty_file_is_all_defaults() -> None:
    found = read("")
    assert found.sources == ()
    assert found.access.keys == ()
    assert found.server.is_loopback


def test_no_secret_is_printed() -> None:
    found = read(EXAMPLE)
    for text in (repr(found), str(found), f"{found}", repr(found.sources), repr(found.access), pretty_repr(found)):
        assert "SECRET" not in text
    tables = load.msgspec.convert(tomllib.loads(EXAMPLE), schema.FileTables)
    assert "SECRET" not in repr(tables)


MISTAKES = {
    # the file's text → the key in the error, and a word of the fix
    "frobnicate = 1": ("frobnicate", "the keys here are"),
    "[server]\nprot = 1": ("server.prot", "'port'"),
    '[log]\npaht = "x"': ("log.paht", "'path'"),
    '[views]\nfile = "x"': ("views.file", "path"),
    "[access]\nkey = []": ("access.key", "'keys'"),
    '[access]\nkeys = [{ id = "a", secert = "SECRET" }]': ("access.keys[0].secert", "'secret'"),
    source('secert = "SECRET"'): ("sources[0].secert", "'secret'"),
    source('secret = "SECRET"') * 2: ("sources[1].name", "give each source its own"),
    '[[sources]]\nname = "a/b"\nvendor = "streamrec"\nsecret = "SECRET"': ("sources[0].name", "use letters"),
    '[[sources]]\nvendor = "streamrec"': ("sources[0].name", "write name = …"),
    '[[sources]]\nname = "a"': ("sources[0].vendor", "write vendor = …"),
    source('secret = "SECRET"\nsecret_env = "OPENVIDU_HOOK_SECRET"'): ("sources[0].secret_env", "keep one of the two"),
    source('secret = "SECRET"\nsecrets = ["SECRET"]'): ("sources[0].secrets", "keep one of the two"),
    source('keys_env = "A_B"\nkeys = { a = "SECRET" }', "livekit"): ("sources[0].keys_env", "keep one of the two"),
    source('secret = ""'): ("sources[0].secret", "write one"),
    source('secret = "  "'): ("sources[0].secret", "write one"),
    source("secrets = []"): ("sources[0].secrets", "write one"),
    source('secrets = ["SECRET", ""]'): ("sources[0].secrets", "write one"),
    source('secret_env = "EMPTY_SECRET"'): ("sources[0].secret_env", "write one"),
    source("keys = {}", "livekit"): ("sources[0].keys", "write one"),
    source('keys = { a = "" }', "livekit"): ("sources[0].keys", "write one"),
    source('keys = { "" = "SECRET" }', "livekit"): ("sources[0].keys", "write the API key"),
    source('secret_env = "UNSET_SECRET_NAME"'): ("sources[0].secret_env", "UNSET_SECRET_NAME is not set: set it"),
    source('secret_env = "5ECRET-by-mistake"'): ("sources[0].secret_env", "write a name"),
    source('secret_file = "no/such/file"'): ("sources[0].secret_file", "check path and permissions"),
    source('secret_file = "a\\u0000b"'): ("sources[0].secret_file", "write one like"),
    source('secret_file = "~nobody-has-this-name/b"'): ("sources[0].secret_file", ":"),
    source('keys_env = "OPENVIDU_HOOK_SECRET"', "livekit"): ("sources[0].keys_env", "write issuer and secret"),
    source("secret = 5"): ("sources[0].secret", "correct the value"),
    source('secrets = "SECRET"'): ("sources[0].secrets", "expected `array`"),
    source('keys = ["SECRET"]', "livekit"): ("sources[0].keys", "write keys = {"),
    source("keys = { a = 5 }", "livekit"): ("sources[0].keys", "expected `str`"),
    source('secret = "SECRET"\nstuck_after = "soon"'): ("sources[0].stuck_after", 'like "12h"'),
    source('secret = "SECRET"\nstuck_after = "0h"'): ("sources[0].stuck_after", 'like "12h"'),
    source('secret = "SECRET"\nstuck_after = "-5h"'): ("sources[0].stuck_after", 'like "12h"'),
    source(f'secret = "SECRET"\nstuck_after = "{"9" * 5000}h"'): ("sources[0].stuck_after", 'like "12h"'),
    source('secret = "SECRET"\nstuck_after = 12'): ("sources[0].stuck_after", "expected `str`"),
    source('secret_env = "A_B"\nheader = ""', "openvidu"): ("sources[0].header", "write only the name"),
    source('secret_env = "A_B"\nheader = "X: SECRET"', "openvidu"): ("sources[0].header", "write only the name"),
    '[sources]\nname = "a"': ("sources", "[[sources]]"),
    "server = 3": ("server", "expected `table`"),
    '[server]\nport = "8080"': ("server.port", "expected `int`"),
    "[server]\nport = 65536": ("server.port", "<= 65535"),
    "[server]\nport = -1": ("server.port", ">= 0"),
    "[server]\nport = 8080.5": ("server.port", "expected `int`"),
    '[server]\nhost = ""': ("server.host", "127.0.0.1"),
    '[server]\nhost = "http://x"': ("server.host", "127.0.0.1"),
    "[server]\nmax_body_bytes = 0": ("server.max_body_bytes", ">= 1"),
    '[server]\nshutdown_grace = "1 hour"': ("server.shutdown_grace", 'like "12h"'),
    '[log]\nengine = "postgres"': ("log.engine", "write one of sqlite"),
    '[log]\npath = ""': ("log.path", "data/log.db"),
    "[log]\nqueue_bound = 0": ("log.queue_bound", ">= 1"),
    '[log]\npath = "same.db"\n[views]\npath = "./x/../same.db"': ("views.path", "of their own"),
    '[access]\nkeys = [{ id = "a", algorithm = "none", secret = "SECRET" }]': (
        "access.keys[0].algorithm",
        "HS256, RS256, EdDSA",
    ),
    '[access]\nkeys = { a = "SECRET" }': ("access.keys", "keys = [{ id"),
    '[access]\nkeys = [{ secret = "SECRET" }]': ("access.keys[0].id", "write id = …"),
    '[access]\nkeys = [{ id = "", secret = "SECRET" }]': ("access.keys[0].id", "name the key"),
    '[access]\nkeys = [{ id = "a" }]': ("access.keys[0].secret", "HS256 needs secret"),
    '[access]\nkeys = [{ id = "a", secret = "" }]': ("access.keys[0].secret", "write one"),
    '[access]\nkeys = [{ id = "a", secret = "SECRET-of-less-than-32-bytes" }]': (
        "access.keys[0].secret",
        "openssl rand -hex 32",
    ),
    '[access]\nkeys = [{ id = "a", secret_env = "SHORT_SECRET" }]': (
        "access.keys[0].secret_env",
        "openssl rand -hex 32",
    ),
    f'[access]\nkeys = [{{ id = "a", secret = "{"SECR" * 8}" }}]': ("access.keys[0].secret", "repeats"),
    '[access]\nkeys = [{ id = "a", secret_env = "UNSET_NAME" }]': ("access.keys[0].secret_env", "set it"),
    '[access]\nkeys = [{ id = "a", secret = "SECRET", secret_file = "x" }]': ("access.keys[0].secret_file", "keep one"),
    '[access]\nkeys = [{ id = "a", secret = "SECRET-of-at-least-thirty-two-bytes" }, { id = "a", secret = "SECRET" }]': (
        "access.keys[1].id",
        "its own id",
    ),
    '[access]\nkeys = [{ id = "a", public_key_file = "x" }]': ("access.keys[0].public_key_file", "use secret_env"),
    '[access]\nkeys = [{ id = "a", algorithm = "RS256", secret = "SECRET" }]': (
        "access.keys[0].secret",
        "use public_key_file",
    ),
    '[access]\nkeys = [{ id = "a", algorithm = "EdDSA" }]': ("access.keys[0].public_key_file", "needs public_key_file"),
    '[access]\nkeys = [{ id = "a", algorithm = "EdDSA", public_key_file = "x" }]': (
        "access.keys[0].public_key_file",
        "check path",
    ),
    '[access]\naudience = ""': ("access.audience", "remove the key"),
    '[access]\nissuer = " "': ("access.issuer", "remove the key"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_an_error_names_its_key_and_a_fix_and_no_secret(text: str) -> None:
    key, fix = MISTAKES[text]
    with pytest.raises(ConfigInvalid) as raised:
        read(text)
    message = str(raised.value)
    assert message.removeprefix(key).removeprefix("[...]").startswith(": ")
    assert fix in message
    assert "SECRET" not in message.replace("UNSET_SECRET_NAME", "")
    assert "5ECRET" not in message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_the_error_of_a_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="name the file with --config"):
        load.load(tmp_path / "config.toml", {})


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load.load(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[server\n", "not TOML"),
        (b"port = " + b"9" * 5000, "not TOML"),
        (b"a = " + b"[" * 20_000, "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_that_is_not_toml_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=says):
        load.load(path, {})


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")
    assert load.load(path, {}).server.port == 1


def test_relative_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(source('secret_file = "s"'))
    (tmp_path / "s").write_text("SECRET\r\n")
    found = load.load(tmp_path / "config.toml", {})
    assert found.log.path == tmp_path / "data" / "log.db"
    assert found.sources[0].secrets == ("SECRET",)


def test_secrets_come_from_variables_and_files_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("one\n\n two \n")
    (tmp_path / "map.toml").write_text('A = "one"\nB = "two"\n')
    environ = {"LIST_ENV": "one, two\nthree,", "JSON_ENV": '{"A": "one"}', "TOML_ENV": 'A = "one"'}

    def of(lines: str, vendor: str) -> load.SourceConfig:
        return load.read(tomllib.loads(source(lines, vendor)), tmp_path / "config.toml", environ).sources[0]

    assert of('secrets_file = "lines"', "openvidu").secrets == ("one", "two")
    assert of('secrets_env = "LIST_ENV"', "openvidu").secrets == ("one", "two", "three")
    assert of('keys_file = "map.toml"', "livekit").keys == {"A": "one", "B": "two"}
    assert of('keys_env = "JSON_ENV"', "livekit").keys == {"A": "one"}
    assert of('keys_env = "TOML_ENV"', "livekit").keys == {"A": "one"}


@pytest.mark.parametrize("text", ['{"A": "\\ud800"}', "[" * 100_000, '{"A": 1}', '{"A": {"B": "SECRET"}}', "SECRET"])
def test_keys_that_are_not_a_table_of_strings_are_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"sources\[0\].keys_env") as raised:
        read(source('keys_env = "A_B"', "livekit"), {"A_B": text})
    assert "SECRET" not in str(raised.value)


def test_key_files_are_pem(tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_text("-----BEGIN PUBLIC KEY-----\n…\n")
    (tmp_path / "other").write_text("SECRET")
    table = '[access]\nkeys = [{{ id = "a", algorithm = "EdDSA", public_key_file = "{}" }}]'
    found = load.read(tomllib.loads(table.format("public.pem")), tmp_path / "config.toml", {})
    assert found.access.keys[0].public_key is not None
    assert found.access.keys[0].private_key is None
    with pytest.raises(ConfigInvalid, match="holds no PEM") as raised:
        load.read(tomllib.loads(table.format("other")), tmp_path / "config.toml", {})
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.org", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_loopback_addresses_are_recognised(host: str, *, loopback: bool) -> None:
    assert read(f'[server]\nhost = "{host}"').server.is_loopback is loopback


def test_the_error_of_an_unknown_source_lists_the_known_names() -> None:
    with pytest.raises(ConfigInvalid, match="ov, meet, lk, pnm, rec"):
        read(EXAMPLE).source("nope")


_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.datetimes(), st.dates(), st.times(),
    st.text(max_size=12), st.sampled_from(["streamrec", "livekit", "HS256", "RS256", "1h", "a", "~x/y", "\0", "A_B"]),
)  # fmt: skip
_FIELDS = sorted(
    {
        field.name
        for table in vars(load).values()
        if isinstance(table, type) and issubclass(table, load.msgspec.Struct)
        for field in load.msgspec.structs.fields(table)
    }
)
_KEYS = st.one_of(st.sampled_from(_FIELDS), st.text(max_size=5))
_TREES: st.SearchStrategy[Any] = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=5)),
    max_leaves=12,
)


def _table(kind: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Nearly valid tables: mostly known keys, with values of the right or of another type."""
    fields = load.msgspec.structs.fields(kind)
    right = st.one_of(
        st.sampled_from(["streamrec", "livekit", "openvidu", "HS256", "EdDSA", "sqlite", "A_B", "s", "main", "1h"]),
        st.integers(-1, 9000), st.lists(st.text(max_size=3), max_size=2),
        st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2), _TREES,
    )  # fmt: skip
    return st.dictionaries(st.sampled_from([field.name for field in fields]), right, max_size=6)


_FILES = st.one_of(
    st.dictionaries(_KEYS, _TREES, max_size=6),
    st.fixed_dictionaries(
        {},
        optional={
            "server": _table(schema.ServerTable),
            "log": _table(schema.LogTable),
            "views": _table(schema.ViewsTable),
            "access": st.fixed_dictionaries({"keys": st.lists(_table(schema.KeyTable), max_size=2)}),
            "sources": st.lists(_table(schema.SourceTable), max_size=2),
        },
    ),
)


@settings(max_examples=300, deadline=None)
@given(_FILES)
def test_any_file_is_read_or_refused_as_invalid(raw: dict[str, Any]) -> None:
    try:
        found = load.read(raw, PATH, ENVIRON)
    except ConfigInvalid:
        return
    assert found.path == PATH

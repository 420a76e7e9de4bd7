"""protojson: both spellings, four units of time, wrong types read as absent, and secrets removed before anything is shown."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.sources import protojson
from tracker.sources.protojson import (
    Unit,
    as_object,
    as_objects,
    either,
    enum,
    enum_table,
    moment,
    number,
    read_object,
    text,
    whole,
)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"7", b'"x"', b"{", b'{"a":1}x', b"\xff\xfe{}", b"[" * 99_999, b'{"a":' * 99_999]
)
def test_a_body_that_is_not_an_object_is_none(body: bytes) -> None:
    assert read_object(body) is None


def test_nesting_has_a_fixed_bound() -> None:
    deep = b'{"a":' + b"[" * 49 + b"]" * 49 + b"}"
    assert read_object(deep) is not None
    assert read_object(deep.replace(b"[", b"[[").replace(b"]", b"]]")) is None


def test_a_body_with_many_brackets_is_read_like_another_one() -> None:
    many = json.dumps({"a": [{"n": 2**70, "b": []}] * 60, "c": "x"}).encode()
    assert read_object(many) == {"a": [{"n": str(2**70), "b": []}] * 60, "c": "x"}


def test_an_integer_wider_than_64_bits_is_no_text_and_is_shown_as_one() -> None:
    fields = read_object(b'{"n":99999999999999999999}')
    assert fields is not None
    assert (text(fields["n"]), whole(fields["n"]), enum(fields["n"], {})) == (None, None, None)
    assert protojson.clean_value(fields) == {"n": "99999999999999999999"}


def test_characters_that_stores_cannot_hold_are_replaced() -> None:
    message = read_object(
        b'\xef\xbb\xbf{"a":"\\ud800x","\\udfff":1,"b":1e999,"c":NaN,"d":99999999999999999999,"e":"\xff"}'
    )
    assert message is not None
    assert message == {
        "a": "\ufffdx",
        "\ufffd": 1,
        "b": None,
        "c": None,
        "d": "99999999999999999999",
        "e": "\ufffd",
    }
    assert msgspec.json.encode(message)


def test_a_field_is_found_under_either_spelling() -> None:
    assert protojson.camel("joined_at_ms") == "joinedAtMs"
    for fields in ({"joined_at_ms": "5"}, {"joinedAtMs": "5"}, {"joined_at_ms": None, "joinedAtMs": "5"}):
        assert either(fields, "joined_at_ms", "joinedAtMs") == "5"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5), ("5", 5), ("-5", -5), ("-9223372036854775808", -(2**63)), ("-9223372036854775809", None), ("--5", None), ("-", None), (5.0, 5), ("9223372036854775807", 2**63 - 1), ("9223372036854775808", None),
        (2**63, None), ("", None), (" 5", None), ("5.0", None), ("+5", None), ("٣", None), ("1e3", None), (5.5, None),
        (True, None), (None, None), ([5], None), (1e300, None), ("9" * 5_000, None),
    ],
)  # fmt: skip
def test_a_whole_number_is_a_number_or_digits(value: object, expected: int | None) -> None:
    assert whole(value) == expected


@pytest.mark.parametrize(
    ("value", "unit", "micros"),
    [
        ("1786000001", "s", 1_786_000_001_000_000), ("1786000001481", "ms", 1_786_000_001_481_000),
        ("1786000004526591", "us", 1_786_000_004_526_591), ("1786000033000000999", "ns", 1_786_000_033_000_000),
        ("0", "s", None), ("-1", "s", None), ("999", "ns", None), ("253402300800", "s", None), ("x", "s", None), (None, "s", None),
    ],
)  # fmt: skip
def test_a_time_is_microseconds_or_absent(value: object, unit: Unit, micros: int | None) -> None:
    assert moment(value, unit) == micros


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("ACTIVE", "ACTIVE"),
        (0, "STARTING"),
        (1, "ACTIVE"),
        ("1", "ACTIVE"),
        ("01", "ACTIVE"),
        (1.0, "ACTIVE"),
        (9, "9"),
        ("9", "9"),
        (-1, "-1"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("", None),
        (True, None),
        ([], None),
    ],
)
def test_an_enum_is_a_name_or_a_number_also_as_a_text_of_digits(value: object, name: str | None) -> None:
    assert enum(value, enum_table("STARTING", "ACTIVE")) == name


@pytest.mark.parametrize("value", [None, 7, "x", [], [7], True])
def test_a_value_that_is_not_an_object_reads_as_an_empty_one(value: object) -> None:
    assert as_object(value) == {}
    assert as_objects(value) == []


# --- showing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "turnPassword", "streamKey", "stream_key", "apiKey", "secret", "client_secret", "accessKey", "token", "joinToken", "jwt",
        "encryption_key", "pin", "sip_pin", "dialInPin", "authorization", "credentials", "signingKey", "sharedKey", "e2ee_key",
    ],
)  # fmt: skip
def test_fields_named_like_secrets_are_left_out(name: str) -> None:
    assert protojson.may_name_secret(name)
    assert (
        protojson.shorten({"a": [{name: "x", "b": 1}]})
        == protojson.clean_value({"a": [{name: "x", "b": 1}]})
        == {"a": [{"b": 1}]}
    )


@pytest.mark.parametrize(
    "name", ["identity", "key", "spinning", "total_tokens", "prompt_tokens", "keyframe", "mapping", "monkey"]
)
def test_ordinary_names_stay(name: str) -> None:
    assert not protojson.may_name_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtmp://live.example/app/KEY", "rtmp://live.example/…"),
        ("rtmps://user:KEY@live.example:443/app/KEY?x=KEY#KEY", "rtmps://live.example:443/…"),
        ("https:\\/\\/x.example\\/KEY", "https://x.example/…"),
        ("SRT://x.example?streamid=KEY", "SRT://x.example/…"),
        (
            "cannot open rtmp://a.example/KEY, nor rtmp://b.example/KEY",
            "cannot open rtmp://a.example/… nor rtmp://b.example/…",
        ),
        ('{"url":"wss://x.example/KEY","n":1}', '{"url":"wss://x.example/…","n":1}'),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrIn0.KEYKEY here", "token … here"),
        ("a // b: c, 5 > 3, eyJ", "a // b: c, 5 > 3, eyJ"),
    ],
)
def test_urls_are_cut_to_their_host_and_tokens_removed(text: str, shown: str) -> None:
    assert protojson.mask_addresses(text) == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://u:p@s.example/a/b.mp4?X-Amz-Signature=KEY#f", "https://s.example/a/b.mp4"),
        ("s3://bucket/a@b.mp4", "s3://bucket/a@b.mp4"),
        ("/out/rec.mp4", "/out/rec.mp4"),
        (None, None),
    ],
)
def test_the_url_of_a_file_is_shown_without_its_credentials(address: str | None, shown: str | None) -> None:
    assert protojson.strip_query(address) == shown


def test_a_json_text_without_secrets_is_shown_as_it_was_written() -> None:
    for text in ('{"b": 1,  "a": "ä"}', "[1]", "plain", "7", "", "{broken"):
        assert protojson.clean_text(text) == text
    assert protojson.clean_text('{"pin": "1", "a": "{\\"token\\": \\"KEY\\"}"}') == '{"a":"{}"}'


def test_long_texts_are_cut() -> None:
    for shown in (
        protojson.shorten("x" * 9_000),
        protojson.clean_value("x" * 9_000),
        protojson.mask_addresses("x" * 9_000),
    ):
        assert len(shown) == 8_193


@pytest.mark.parametrize(
    "text", ["a.b+c-" * 300_000, "://" * 500_000, "eyJ" * 500_000, "a:" * 500_000, "@" * 1_000_000, '["' * 400_000]
)
def test_no_text_takes_long(text: str) -> None:
    begun = time.perf_counter()
    protojson.clean_value({"a": text})
    protojson.strip_query(text)
    assert time.perf_counter() - begun < 2


def test_the_other_fields_are_the_unknown_ones() -> None:
    message: dict[str, Any] = {
        "createdAt": "1",
        "new": "rtmp://a/KEY",
        "object": {"token": "KEY", "n": 1},
        "newToken": "KEY",
        "none": None,
    }
    assert protojson.unknown_fields(message, protojson.spellings("created_at")) == {
        "new": "rtmp://a/…",
        "object": {"n": 1},
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(value=st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_whatever_is_read_can_be_shown_and_encoded(value: dict[str, Any]) -> None:
    message = read_object(json.dumps(value).encode())
    assert message is not None
    for shown in (
        protojson.clean_value(message),
        protojson.shorten(message),
        protojson.unknown_fields(message, frozenset()),
    ):
        assert msgspec.json.decode(msgspec.json.encode(shown)) == shown
    for field in (*message.values(), *value.values()):
        for unit in ("s", "ms", "us", "ns"):
            assert moment(field, unit) is None or whole(field) is not None
        enum(field, enum_table("ZERO")), number(field), as_objects(field), as_object(field), text(field)

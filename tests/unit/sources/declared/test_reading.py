"""Declarations: the shipped ones have no mistakes, and every kind of mistake is named by its line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.config.declarations import shipped_declaration, shipped_names
from tracker.sources.declared.lines import Lines
from tracker.sources.declared.reading import DeclarationWrong, read_declaration

RIGHT = """\
title = "Acme"

[proof]
kind = "hmac"
signature = "X-Acme-Signature"
message = "{header.X-Acme-Time}.{body}"
time = "header.X-Acme-Time"

[body]
format = "json"

[event]
name = "type"
id = "id"
time = { path = "created", unit = "ms" }

[ids]
room = "call.room"
connection = "user.connection"

[[on]]
event = "call.begin"
fact = "session.started"

[[on]]
event = "user.in"
fact = "participant.joined"
when = { path = "user.kind", is = "person" }

[challenge]
event = "ask"
token = "token"
answer = { plain = "{token}", signed = "{hmac}" }
"""

MISTAKES = {
    "no TOML": ("[proof]", "[proof", 3, "this is not TOML"),
    "an unknown table": ("[body]", "[boddy]", 9, "did you mean 'body'?"),
    "an unknown key": ("signature =", "signatur =", 5, "did you mean 'signature'?"),
    "no signature": ('signature = "X-Acme-Signature"\n', "", 3, "name the header"),
    "a header with its value": ('"X-Acme-Signature"', '"X-Acme-Signature: a"', 5, "write only the name"),
    "an unknown kind of proof": ('"hmac"', '"hmak"', 4, "did you mean 'hmac'?"),
    "no kind of proof": ('kind = "hmac"\n', "", 3, "one of hmac, digest"),
    "a message without the body": (".{body}", "", 6, "does not hold {body}"),
    "no message": ('message = "{header.X-Acme-Time}.{body}"\n', "", 3, "say what is signed"),
    "an unknown part of the message": (".{body}", ".{boddy}", 6, "{boddy} is unknown"),
    "an open bracket": (".{body}", ".{body}{", 6, "a bracket is not closed"),
    "the secret in an HMAC": (".{body}", ".{body}{secret}", 6, "{secret} is not part"),
    "a time that is not signed": ('time = "header.X-Acme-Time"', 'time = "header.X-Other"', 7, "not part of message"),
    "an element without pairs": (".{body}", ".{body}{sig.t}", 6, 'pairs = "v1"'),
    "an unknown format": ('format = "json"', 'format = "xml"', 10, "known are json, form"),
    "unwrapping without a form": ('format = "json"', 'unwrap = "event"', 10, "only a form"),
    "no event name": ('name = "type"\n', "", 12, "where the name of the event is"),
    "a path that is none": ('"type"', '"a..b"', 13, "is no path, at character 3"),
    "an unknown @": ('"type"', '"@claim.x"', 13, "@claim.x is unknown"),
    "a header that is not signed": ('id = "id"', 'id = "@header.X-Other"', 14, "is not recorded with the proof"),
    "dedupe by an id that is not there": ('id = "id"', 'dedupe = "id"', 14, "needs event.id"),
    "an unknown dedupe": ('id = "id"', 'dedupe = "window"', 14, "known are id, body"),
    "a time without its unit": ('{ path = "created", unit = "ms" }', '"created"', 15, "units are s, ms"),
    "an unknown unit": ('unit = "ms"', 'unit = "min"', 15, "'min' is unknown"),
    "an id of no fact": ("room = ", "rom = ", 18, "did you mean 'room'?"),
    "an unknown fact": ('"session.started"', '"session.start"', 23, "did you mean 'session.started'?"),
    "no fact": ('fact = "session.started"\n', "", 21, "what the event means"),
    "no event": ('event = "call.begin"\n', "", 21, "name the event"),
    "a field that the fact lacks": ('event = "call.begin"\n', 'event = "call.begin"\nstream = "x"\n', 23, "unknown key for session.started"),
    "a fact without its id": ('connection = "user.connection"\n', "", 24, "participant.joined needs it"),
    "no room and no run": ('room = "call.room"\n', "", 20, "belongs to no session"),
    "a condition without a test": (', is = "person"', "", 28, "is ="),
    "a condition with a number": ('is = "person"', "is = 7", 28, "compare with texts"),
    "a challenge without a token": ('token = "token"\n', "", 30, "repeats"),
    "an HMAC of a proof that has none": ('kind = "hmac"', 'kind = "rsa"', 33, "needs a proof of kind hmac"),
    "a challenge with another answer": ('"{token}"', '"{secret}"', 33, 'each "{token}" or "{hmac}"'),
}  # fmt: skip


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_declaration_has_no_mistakes(name: str) -> None:
    declaration = read_declaration(shipped_declaration(name))
    assert declaration.readings
    assert declaration.title != "declared"


def test_the_example_without_a_mistake_is_read() -> None:
    assert read_declaration(RIGHT).title == "Acme"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_by_its_line(name: str) -> None:
    right, wrong, line, message = MISTAKES[name]
    assert right in RIGHT
    with pytest.raises(DeclarationWrong) as refused:
        read_declaration(RIGHT.replace(right, wrong, 1))
    found = [(mistake.line, mistake.what) for mistake in refused.value.mistakes]
    assert any(at == line and message in what for at, what in found), found


def test_all_mistakes_are_named_in_the_order_of_their_lines() -> None:
    text = RIGHT.replace('"session.started"', '"x"').replace('"hmac"', '"y"').replace('unit = "ms"', 'unit = "z"')
    with pytest.raises(DeclarationWrong) as refused:
        read_declaration(text)
    lines = [mistake.line for mistake in refused.value.mistakes]
    assert lines == sorted(lines)
    assert {4, 15, 23} <= set(lines)


@pytest.mark.parametrize("kind", ["header", "url"])
def test_a_proof_that_does_not_cover_the_body_has_to_say_so(kind: str) -> None:
    proof = f'[proof]\nkind = "{kind}"\n' + ('header = "X-Secret"\n' if kind == "header" else "")
    rest = RIGHT[RIGHT.index("[body]") : RIGHT.index("[challenge]")]
    with pytest.raises(DeclarationWrong, match="binds_body = false"):
        read_declaration(proof + rest)
    assert not read_declaration(proof + "binds_body = false\n" + rest).proof.binds_body


@given(st.text(max_size=300))
def test_no_text_fails_otherwise_than_by_naming_mistakes(text: str) -> None:
    for tried in (text, RIGHT + text, text + RIGHT):
        try:
            read_declaration(tried)
        except DeclarationWrong as error:
            assert error.mistakes  # noqa: PT017 - most texts have mistakes
            assert all(1 <= mistake.line <= len(tried.splitlines()) + 1 for mistake in error.mistakes)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["path", "unit", "join", "is"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=50)
@given(st.sampled_from([line.split(" = ")[0] for line in RIGHT.splitlines() if " = " in line]), VALUES)
def test_a_value_of_any_type_is_at_worst_a_mistake(key: str, value: object) -> None:
    lines = [f"{key} = {toml(value)}" if line.startswith(f"{key} = ") else line for line in RIGHT.splitlines()]
    try:
        read_declaration("\n".join(lines))
    except DeclarationWrong as error:
        assert error.mistakes  # noqa: PT017


def toml(value: object) -> str:
    """A value in TOML; a text for null, which TOML lacks."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + "}"
        case _:
            shown = "".join(character for character in str(value) if character.isprintable() and character not in "'\\")
            return f"'{shown}'"


def test_lines_of_keys_are_found_behind_strings_and_lists_of_several_lines() -> None:
    text = 'a = """\nb = 1\n"""\nc = [\n  "x", # ]\n  "y",\n]\n[t.u]\nd = 1\n[[v]]\ne = 1\n[[v]]\ne = { f = 1 }\n'
    lines = Lines(text)
    assert [lines.of(("a",)), lines.of(("c",)), lines.of(("t", "u", "d"))] == [1, 4, 9]
    assert [lines.of(("v", 0, "e")), lines.of(("v", 1, "e", "f")), lines.of(("v", 1, "g")), lines.of(("x",))] == [
        11,
        13,
        12,
        1,
    ]

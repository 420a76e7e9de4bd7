"""The events in a body: JSON or a form, one event or a list of them."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import parse_qsl

from tracker.sources.declared.declaration import Declaration
from tracker.sources.declared.paths import step
from tracker.sources.json_reading import BodyUnreadable, parse_strict, read_object

MAX_FIELDS = 1_000
"""Of a form."""


def events_in(declaration: Declaration, body: bytes) -> list[Any]:
    """The events of a body, as JSON values. Raises `BodyUnreadable`; the message never quotes the body."""
    value = _form(declaration, body) if declaration.format == "form" else read_object(body)
    if declaration.each is None:
        return [value]
    found = step(value, declaration.each)
    if not isinstance(found, list):
        raise BodyUnreadable("there is no list of events where the declaration says")
    return cast("list[Any]", found)


def _form(declaration: Declaration, body: bytes) -> Any:
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise BodyUnreadable("not a form") from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        fields.setdefault(name, value)
    if not declaration.unwrap:
        return fields
    inner = fields.get(declaration.unwrap)
    if not isinstance(inner, str):
        raise BodyUnreadable(f"the form has no field {declaration.unwrap}")
    return parse_strict(inner)

"""What a text must be to be stored and sent: Unicode that UTF-8 can encode. JSON's escapes can hold lone surrogates."""

from __future__ import annotations


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can encode the text: it has no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> str:
    r"""The text with each lone surrogate written as `\udXXX`."""
    return text if is_utf8(text) else text.encode("utf-8", "backslashreplace").decode()

"""How strong a secret has to be, and the commands that make one. Messages never show a secret."""

from __future__ import annotations

HS256_BYTES = 32
"""RFC 7518 3.2: a key at least as long as the hash."""
MAKE_KEY = "openssl rand -hex 32"
_LEAST_DIFFERENT = 5
"""Characters. A random secret of 16 hexadecimal digits has fewer once in a hundred million."""


def why_too_weak(secret: str, least: int, *, bytes_: bool = False) -> str | None:
    """Why a secret is refused where it needs `least` random characters (or bytes); None if it is strong enough."""
    unit = "bytes" if bytes_ else "random characters"
    if (len(secret.encode()) if bytes_ else len(secret)) < least:
        return f"it is shorter than {least} {unit}, and could be guessed"
    if len(set(secret)) < _LEAST_DIFFERENT:
        return f"it repeats fewer than {_LEAST_DIFFERENT} characters, and could be guessed"
    return None

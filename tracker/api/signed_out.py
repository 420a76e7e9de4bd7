"""Remembers sessions that were signed out until their tokens expire, also over a restart.

A session's cookie is a token, which stays valid until it expires: so signing out is noted here. The file holds a line for
each: the SHA-256 of the cookie, and when its token expires (µs). Nobody can read a token from it.

LIMIT: another node of a cluster does not know of it: there a copied cookie works until its token expires.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import structlog

NO_EXPIRY = 0

_log = structlog.get_logger("api")


class SignedOutSessions:
    """Digests of the cookies of signed-out sessions. Without `path`, only this process remembers them."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._expires_at: dict[bytes, int] = {}
        if path is None:
            return
        with contextlib.suppress(FileNotFoundError):
            for line in path.read_text("ascii", "replace").splitlines():
                digest, _, expires_at = line.partition(" ")
                with contextlib.suppress(ValueError):
                    self._expires_at[bytes.fromhex(digest)] = int(expires_at)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._expires_at

    def add(self, digest: bytes, expires_at: int | None, now: int) -> None:
        """Remember a session that was signed out; forget those whose tokens expired before `now` (µs)."""
        for each in [each for each, at in self._expires_at.items() if at != NO_EXPIRY and at < now]:
            del self._expires_at[each]
        self._expires_at[digest] = expires_at or NO_EXPIRY
        self._save()

    def discard(self, digest: bytes) -> None:
        """Forget a session: somebody signed in with its token again."""
        if self._expires_at.pop(digest, None) is not None:
            self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        lines = "".join(f"{digest.hex()} {at}\n" for digest, at in sorted(self._expires_at.items()))
        draft = self._path.with_name(f"{self._path.name}.new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, 0o600)
                file.write(lines)
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, self._path)
        except OSError as error:
            _log.error(
                "a signed-out session is remembered only until the next start", path=str(self._path), reason=str(error)
            )

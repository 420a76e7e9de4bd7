"""The key file for signing checkpoints: created once with mode 600, never overwritten, read at start."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tracker.errors import ConfigInvalid, NoteMalformed
from tracker.log.merkle.cosignature import CosignerKey
from tracker.log.merkle.note import Signer, Verifier

Key = TypeVar("Key")


def create_key(path: Path, origin: str) -> Verifier | None:
    """Create a key named `origin` and return its public key; None if a file exists at `path`, which is not changed.

    The file gets its name only when it is complete and on the disk. Raises `ConfigInvalid`.
    """
    if path.exists() or path.is_symlink():
        return None
    signer = Signer.generate(origin)
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{signer}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, never replaces an existing file
        except FileExistsError:
            return None
    except OSError as error:
        raise ConfigInvalid(
            f"evidence.key_file: {path} cannot be written ({error.strerror}): choose another path, or free disk space"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return signer.verifier


def read_key(path: Path, origin: str) -> Signer | None:
    """The key, or None if there is no file. Raises `ConfigInvalid` for anything but a key of the log named `origin`."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigInvalid(
            f"evidence.key_file: {path} cannot be read ({reason}): check path and permissions"
        ) from None
    try:
        signer = Signer.read(text)
    except NoteMalformed as error:
        raise ConfigInvalid(f"evidence.key_file: {path}: {error}: restore it from your backup") from None
    if signer.name != origin:
        raise ConfigInvalid(
            f"evidence.origin: the key in {path} belongs to the log {signer.name!r}: write origin = {signer.name!r}, "
            "or move the key away and create one with `tracker init` (then add the old verifier key to evidence.former_keys)"
        )
    return signer


def read_cosigners(texts: tuple[str, ...]) -> list[CosignerKey]:
    """The keys in `evidence.cosigner_keys`. Raises `ConfigInvalid`."""
    return _read_all(texts, CosignerKey.read, "cosigner_keys")


def read_verifiers(texts: tuple[str, ...]) -> list[Verifier]:
    """The keys in `evidence.former_keys`. Raises `ConfigInvalid`."""
    return _read_all(texts, Verifier.read, "former_keys")


def _read_all(texts: tuple[str, ...], read: Callable[[str], Key], name: str) -> list[Key]:
    found: list[Key] = []
    for n, text in enumerate(texts):
        try:
            found.append(read(text))
        except NoteMalformed as error:
            raise ConfigInvalid(f"evidence.{name}[{n}]: {error}") from None
    return found

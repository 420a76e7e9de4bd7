"""The texts of declarations: files of the operator, and those that ship with Tracker."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tracker.errors import ConfigInvalid

MAX_BYTES = 100_000
_FOLDER = resources.files("tracker.sources.declared") / "shipped"


def shipped_names() -> tuple[str, ...]:
    """The names of the declarations that ship with Tracker."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in _FOLDER.iterdir() if file.name.endswith(".toml")))


def shipped_declaration(name: str) -> str:
    """The text of one of `shipped_names`."""
    return (_FOLDER / f"{name}.toml").read_text("utf-8")


def declaration_text(value: str, folder: Path, where: str) -> str:
    """The text that `declaration = VALUE` means: a shipped one by its name, or a file. Raises `ConfigInvalid`.

    A path is relative to `folder`. `where` names the key.
    """
    if value in shipped_names():
        return shipped_declaration(value)
    if "/" not in value and not value.endswith(".toml"):
        raise ConfigInvalid(
            f"{where}: no declaration is called {value!r}: name one of {', '.join(shipped_names())}, or a file that ends in .toml"
        )
    path = folder / Path(value).expanduser()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigInvalid(f"{where}: {path} has more than {MAX_BYTES:,} bytes: it is no declaration")
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigInvalid(f"{where}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{where}: {path} is not UTF-8 text: save it as UTF-8") from error

"""Fetches config.toml's secrets: from the file itself, from the environment, or from other files.

Each secret has exactly one place: with two, nobody could see which one counts until deliveries are refused. Messages name
keys, variables and files, never their content.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tracker.config.secret_strength import HS256_BYTES, MAKE_KEY, why_too_weak
from tracker.errors import ConfigInvalid

if TYPE_CHECKING:
    from tracker.config.schema import KeyTable

SECRET_KEYS = ("secret", "secret_env", "secret_file", "secrets", "secrets_env", "secrets_file")
MAP_KEYS = ("keys", "keys_env", "keys_file")
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")


class Lookup:
    """Fetches secrets; relative paths start at `folder`, the directory of config.toml."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self.folder = folder

    def secrets_key(self, table: object, where: str) -> str | None:
        """The key of `[[sources]]` that names its secrets; None where there is none. Raises `ConfigInvalid` for several."""
        given = _given(table, SECRET_KEYS + MAP_KEYS)
        if len(given) > 1:
            raise ConfigInvalid(f"{where}.{given[1]}: {given[0]} is there too: keep one of the two")
        return given[0] if given else None

    def secrets(self, table: object, key: str, where: str) -> tuple[str, ...]:
        """The secrets under `key`: one, or several during a rotation. Raises `ConfigInvalid`."""
        value: Any = getattr(table, key)
        at = f"{where}.{key}"
        if key.endswith("_env"):
            value = self._variable(value, at)
        elif key.endswith("_file"):
            value = self._text_file(value, at)
        if key in {"secrets_env", "secrets_file"}:
            parts = re.split(r"[,\n]" if key == "secrets_env" else r"\n", value)
            value = tuple(part.strip() for part in parts if part.strip())
        return _filled((value,) if isinstance(value, str) else tuple(value), at)

    def keys(self, table: object, key: str, where: str) -> dict[str, str]:
        """The map from issuer to secret under `key`. Raises `ConfigInvalid`."""
        value: Any = getattr(table, key)
        at = f"{where}.{key}"
        if key == "keys_env":
            value = _parsed_map(self._variable(value, at), at)
        elif key == "keys_file":
            value = _parsed_map(self._text_file(value, at), at)
        _filled(tuple(value.values()), at)
        if "" in value:
            raise ConfigInvalid(f"{at}: an issuer is empty: write the API key that signs (`iss`) before its secret")
        return dict(value)

    def one(self, table: object, where: str, needs: str) -> str:
        """A single secret from its one place. Raises `ConfigInvalid`; `needs` ends the message where there is none."""
        key = _one_of(table, ("secret", "secret_env", "secret_file"), where, needs)
        at = f"{where}.{key}"
        text: str = getattr(table, key)
        if key != "secret":
            text = self._variable(text, at) if key == "secret_env" else self._text_file(text, at)
        return _filled((text,), at)[0]

    def text(self, variable: str | None, file: str | None, where: str, name: str) -> str | None:
        """The secret that `<name>_env` or `<name>_file` names; None where neither is there. Raises `ConfigInvalid`."""
        if variable is not None and file is not None:
            raise ConfigInvalid(f"{where}.{name}_file: {name}_env is there too: keep one of the two")
        if variable is not None:
            if VARIABLE.fullmatch(variable) is None and variable not in self._environ:
                raise ConfigInvalid(
                    f"{where}.{name}_env: this is not the name of a variable: write one, or use {name}_file"
                )
            return _filled((self._variable(variable, f"{where}.{name}_env"),), f"{where}.{name}_env")[0]
        if file is not None:
            return _filled((self._text_file(file, f"{where}.{name}_file"),), f"{where}.{name}_file")[0]
        return None

    def access_key(self, table: KeyTable, where: str) -> tuple[str | None, str | None, str | None]:
        """(secret, public key, private key) of a read key: a text for HS256, PEM for the others. Raises `ConfigInvalid`."""
        secret_keys, pem_keys = ("secret", "secret_env", "secret_file"), ("public_key_file", "private_key_file")
        if table.algorithm == "HS256":
            wrong = _given(table, pem_keys)
            if wrong:
                raise ConfigInvalid(f"{where}.{wrong[0]}: HS256 has one secret: use secret_env, or algorithm RS256")
            secret = self.one(table, where, "HS256 needs secret, secret_env or secret_file")
            why = why_too_weak(secret, HS256_BYTES, bytes_=True)
            if why is not None:
                given = _given(table, secret_keys)[0]
                raise ConfigInvalid(f"{where}.{given}: a key for HS256 is not safe: {why}. Make one with `{MAKE_KEY}`")
            return secret, None, None
        wrong = _given(table, secret_keys)
        if wrong:
            raise ConfigInvalid(f"{where}.{wrong[0]}: {table.algorithm} has key files: use public_key_file")
        if not _given(table, pem_keys):
            raise ConfigInvalid(
                f"{where}.public_key_file: missing; {table.algorithm} needs public_key_file to check tokens, and "
                "private_key_file to mint them"
            )
        return None, self._pem(table.public_key_file, f"{where}.public_key_file"), self._pem(
            table.private_key_file, f"{where}.private_key_file"
        )  # fmt: skip

    def _pem(self, name: str | None, at: str) -> str | None:
        if name is None:
            return None
        text = self._text_file(name, at)
        if "-----BEGIN " not in text:
            raise ConfigInvalid(f"{at}: the file holds no PEM (-----BEGIN …): write the key there in PEM form")
        return text

    def _variable(self, name: str, at: str) -> str:
        found = self._environ.get(name)
        if found is None and VARIABLE.fullmatch(name) is None:
            # The value is not shown: it may be the secret itself, under the wrong key.
            raise ConfigInvalid(
                f"{at}: no environment variable has this name: write a name like TRACKER_READ_KEY, "
                f"or the secret itself under {at.rpartition('.')[2].removesuffix('_env')}"
            )
        if found is None:
            raise ConfigInvalid(f"{at}: the environment variable {name} is not set: set it before `tracker` starts")
        return found

    def _text_file(self, name: str, at: str) -> str:
        """The text of a file, without its last newline. Raises `ConfigInvalid`."""
        # Neither content nor path is shown: it may be the secret itself, under the wrong key.
        try:
            text = (self.folder / Path(name).expanduser()).read_text("utf-8-sig")
        except OSError as error:
            raise ConfigInvalid(
                f"{at}: the file cannot be read ({error.strerror}): check path and permissions; "
                f"a relative path starts at {self.folder}"
            ) from None
        except UnicodeDecodeError:
            raise ConfigInvalid(f"{at}: the file is not UTF-8 text: save it as UTF-8") from None
        except (ValueError, RuntimeError):  # a NUL in the name; '~' of an unknown user
            raise ConfigInvalid(f"{at}: this is not the path of a file: write one like secrets/hook") from None
        # Editors and `echo` end a file with a newline; a secret that ends in a newline needs a second one.
        return text.removesuffix("\n").removesuffix("\r")


def _given(table: object, keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if getattr(table, key) is not None]


def _one_of(table: object, keys: tuple[str, ...], where: str, needs: str) -> str:
    given = _given(table, keys)
    if not given:
        raise ConfigInvalid(f"{where}.{keys[0]}: missing; {needs}")
    if len(given) > 1:
        raise ConfigInvalid(f"{where}.{given[1]}: {given[0]} is there too: keep one of the two")
    return given[0]


def _filled(secrets: tuple[str, ...], at: str) -> tuple[str, ...]:
    if not secrets or not all(secret.strip() for secret in secrets):
        raise ConfigInvalid(f"{at}: this holds no secret: write one, because an empty secret would accept everybody")
    try:
        "".join(secrets).encode()
    except UnicodeEncodeError:  # bytes in the environment that are not text, a lone surrogate in JSON
        raise ConfigInvalid(f"{at}: the secret is not UTF-8 text: write it in UTF-8") from None
    return secrets


def _parsed_map(text: str, at: str) -> dict[str, str]:
    found: object = None
    for parse in (json.loads, tomllib.loads):
        try:
            found = parse(text)
        except (ValueError, RecursionError):  # not this format; the message below names both
            continue
        break
    try:
        return msgspec.convert(found, dict[str, str])
    except msgspec.ValidationError:
        raise ConfigInvalid(
            f'{at}: write issuer and secret as TOML (issuer = "secret") or as a JSON object ({{"issuer": "secret"}})'
        ) from None

"""From `[[sources]]` to senders: each source is checked against its vendor before anything starts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from tracker.config import load as config_file
from tracker.config.load import Config, SourceConfig
from tracker.config.secret_strength import MAKE_KEY, why_too_weak
from tracker.domain.deliveries import TRACKER
from tracker.errors import ConfigInvalid
from tracker.log.shipped_dictionaries import ShippedDictionaries
from tracker.sources import registry
from tracker.sources.contract import SecretsKey, Source, SourceSettings
from tracker.sources.declared.reading import DeclarationWrong
from tracker.sources.declared.source import DeclaredSource


_WHY_REQUIRED = {
    "hook_url": "this sender signs the address of the hook: write it exactly as it is registered there",
    "declaration": "name a file that describes the vendor, or one that ships with Tracker; see docs/reference/vendors/declared.md",
}
SHORT_SECRET = 16
"""Characters. A vendor's secret that is shorter gives a warning."""


def load_config(path: Path | str, environ: Mapping[str, str]) -> Config:
    """Read config.toml and check its sources. Raises `ConfigInvalid`."""
    config = config_file.load(path, environ)
    check_sources(config)
    return config


def check_sources(config: Config) -> None:
    """Raise `ConfigInvalid` where a source does not fit its vendor; the message names the key and how to fix it."""
    for n, source in enumerate(config.sources):
        where = f"sources[{n}]"
        if source.name == TRACKER:
            raise ConfigInvalid(f"{where}.name: {TRACKER!r} names Tracker's own records: choose another name")
        vendor = registry.VENDORS.get(source.vendor)
        if vendor is None:
            raise ConfigInvalid(f"{where}.vendor: {source.vendor!r} is unknown; {registry.suggest(source.vendor)}")
        for option in sorted(source.options - vendor.accepts):
            raise ConfigInvalid(f"{where}.{option}: vendor {vendor.name} has no such option: remove the key")
        for option in sorted(vendor.requires - source.options):
            raise ConfigInvalid(f"{where}.{option}: missing; {_WHY_REQUIRED[option]}")
        if not (source.keys if vendor.needs == "keys" else source.secrets):
            raise ConfigInvalid(_wrong_secrets(source, vendor.needs, where))
        _check_declaration(source, where)
        weak = [why_too_weak(secret, vendor.least_secret) for secret in source.secrets if vendor.least_secret]
        why = next(filter(None, weak), None)
        if why is not None:
            raise ConfigInvalid(
                f"{where}.{source.secrets_key}: the secret of source {source.name} is not safe: {why}. It is all that"
                f" proves its deliveries: make one with `{MAKE_KEY}`"
            )


def _check_declaration(source: SourceConfig, where: str) -> None:
    """Raise `ConfigInvalid` where the declaration of a source has mistakes, or its settings do not fit it."""
    if not source.declaration:
        return
    try:
        built = build_source(source)
    except DeclarationWrong as error:
        raise ConfigInvalid(f"{where}.declaration: it has mistakes:\n{error}") from error
    wrong = built.wrong_settings() if isinstance(built, DeclaredSource) else None
    if wrong is not None:
        raise ConfigInvalid(f"{where}.{wrong}")


def secret_warnings(config: Config) -> Mapping[str, str]:
    """Source → why its secret proves little: it is the vendor's example, or short. Newcomers begin with such secrets."""
    found: dict[str, str] = {}
    for source in config.sources:
        vendor = registry.VENDORS[source.vendor]
        secrets = (*source.secrets, *source.keys.values())
        if not vendor.known_secrets.isdisjoint(secrets):
            why = f"its secret is the well-known one of {vendor.title}'s examples: anybody can forge deliveries"
        elif any(why_too_weak(secret, SHORT_SECRET) for secret in secrets):
            why = f"its secret has fewer than {SHORT_SECRET} random characters, and could be guessed"
        else:
            continue
        found[source.name] = f"{why}. Make one with `{MAKE_KEY}`, and set it at the sender and here"
    return found


def _wrong_secrets(source: SourceConfig, needs: SecretsKey, where: str) -> str:
    if needs == "keys":
        first, kind, use = "keys", "keys by issuer", 'keys = { issuer = "secret" }, keys_env or keys_file'
    else:
        first, kind, use = "secret", "a secret, not with keys by issuer", "secret, secret_env or secret_file"
    if source.secrets_key is None:
        return f"{where}.{first}: missing; vendor {source.vendor} needs {use}"
    return f"{where}.{source.secrets_key}: vendor {source.vendor} proves with {kind}: use {use}"


def build_source(config: SourceConfig) -> Source:
    """One configured sender. Raises `ConfigInvalid` for an unknown vendor."""
    return registry.build(
        SourceSettings(
            name=config.name,
            vendor=config.vendor,
            secrets=config.secrets,
            keys=config.keys,
            header=config.header or "Authorization",
            hook_url=config.hook_url,
            accept_unbound_checksum=config.accept_unbound_checksum,
            declaration=config.declaration,
        )
    )


def build_sources(config: Config) -> Mapping[str, Source]:
    """All configured senders by name."""
    return {each.name: build_source(each) for each in config.sources}


def redacted_fields(config: Config) -> Mapping[str, frozenset[str]]:
    """The fields that views leave out, by source."""
    return {each.name: frozenset(each.redact) for each in config.sources if each.redact}


def shipped_dictionaries() -> ShippedDictionaries:
    """The dictionaries of all vendors, for the key store."""
    by_vendor = {vendor.name: vendor.dictionary for vendor in registry.VENDORS.values() if vendor.dictionary}
    return ShippedDictionaries(_dictionaries(), by_vendor)


@functools.cache
def _dictionaries() -> Mapping[int, bytes]:
    folders = [resources.files("tracker.sources") / folder for folder in registry.FOLDERS]
    files = [file for folder in folders for file in folder.iterdir() if file.name.endswith(".zdict")]
    return {int(file.name.removesuffix(".zdict")): file.read_bytes() for file in files}

"""The source that proved and named a record. One with a declaration changes with it: the one in force at the position counts."""

from __future__ import annotations

from collections.abc import Mapping

from tracker.domain.deliveries import Record
from tracker.log.declaration_records import DeclarationHistory
from tracker.sources import registry
from tracker.sources.contract import Source, SourceSettings
from tracker.sources.declared.source import DeclaredSource


class SourcesInForce:
    """`configured`: the sources with their secrets. `history`: the declarations in the log, or in the bundle."""

    def __init__(self, configured: Mapping[str, Source], history: DeclarationHistory) -> None:
        self._configured = configured
        self.history = history
        self._known: dict[tuple[str, str, str | None, bool], Source] = {}

    def naming(self, record: Record) -> Source | None:
        """A source without secrets, that names bodies; None where the record's vendor or its declaration is not known."""
        vendor = registry.VENDORS.get(record.vendor)
        text = self._text(record)
        if vendor is None or ("declaration" in vendor.requires and text is None):
            return None
        key = (record.source, record.vendor, text, False)
        if key not in self._known:
            settings = SourceSettings(name=record.source, vendor=record.vendor, declaration=text or "")
            self._known[key] = registry.build(settings)
        return self._known[key]

    def proving(self, record: Record) -> Source | None:
        """The configured source of a record, with its secrets; None where it is not configured any more."""
        source = self._configured.get(record.source)
        if source is None or source.vendor != record.vendor:
            return None
        text = self._text(record)
        if not isinstance(source, DeclaredSource) or text is None:
            return source
        key = (record.source, record.vendor, text, True)
        if key not in self._known:
            self._known[key] = source.under(text)
        return self._known[key]

    def _text(self, record: Record) -> str | None:
        declared = self.history.at(record.source, record.position)
        return None if declared is None else declared.text

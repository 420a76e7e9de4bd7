"""The sample calls of declared sources are understood, without a log that holds their declaration."""

from __future__ import annotations

from tracker.config.declarations import shipped_declaration
from tracker.demo.calls import DECLARATIONS, SOURCES
from tracker.sources.declared.reading import read_declaration
from tracker.sources.declared.vendor import use_declarations


SAMPLES = {vendor: read_declaration(shipped_declaration(name)) for vendor, name in DECLARATIONS.items()}


def understand(*names: str) -> None:
    """Interpret the records of sources with these names by the declaration of the sample call."""
    for vendor, declaration in SAMPLES.items():
        use_declarations(dict.fromkeys(("s", vendor, SOURCES[vendor], *names), declaration))

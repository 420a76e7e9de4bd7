"""What Tracker knows of declared vendors: nothing but their declarations."""

from __future__ import annotations

from collections.abc import Mapping

from tracker.domain.deliveries import Record
from tracker.domain.facts import Fact, RunRules, Unknown
from tracker.sources.contract import Vendor
from tracker.sources.declared.declaration import Declaration
from tracker.sources.declared.events import interpret as interpret_by
from tracker.sources.declared.sample_call import DECLARATION, play, sign
from tracker.sources.declared.source import DeclaredSource, headers_from_proof, query_from_proof
from tracker.sources.sample_calls import SampleCall

_in_use: dict[str, Declaration] = {}
"""The declaration of each source."""


def use_declarations(declarations: Mapping[str, Declaration]) -> None:
    """Interpret the records of these sources by these declarations from now on, in this process; of no others."""
    _in_use.clear()
    _in_use.update(declarations)


def interpret(record: Record) -> tuple[Fact, ...]:
    """See `contract.Interpret`. The declarations are those of `use_declarations`."""
    declaration = _in_use.get(record.source)
    if declaration is None:
        why = (("unknown_event", f"the log has no declaration of the source {record.source}"),)
        return (Unknown(at=record.received_at, clock="receiver", precision="us", anomalies=why),)
    return interpret_by(record, declaration)


VENDOR = Vendor(
    name="declared",
    title="Declared",
    build=DeclaredSource,
    interpret=interpret,
    rules=RunRules(),
    needs="secrets",
    accepts=frozenset({"declaration", "hook_url"}),
    requires=frozenset({"declaration"}),
    first_steps="At the sender, register this address for its webhooks, and put its secret into this source.",
    headers_from_proof=headers_from_proof,
    query_from_proof=query_from_proof,
    sample=SampleCall(source="zoom", play=play, sign=sign, declaration=DECLARATION),
)

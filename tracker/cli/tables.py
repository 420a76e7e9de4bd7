"""Sessions and timelines as tables, from the JSON the API answers with: the command line and the demo print the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from tracker.cli.output import table_of

SESSION = ("session", "state", "started", "lasted", "people", "recordings", "end", "completeness", "anomalies")
ENTRY = ("at", "what", "about", "who", "how we know", "record")


def sessions_table(sessions: Sequence[dict[str, Any]]) -> Table:
    """One row a session."""
    return table_of("Sessions", SESSION, [_session_row(each) for each in sessions])


def timeline_table(session_id: str, entries: Sequence[dict[str, Any]]) -> Table:
    """One row an entry."""
    return table_of(f"Timeline of {session_id}", ENTRY, [_entry_row(entry) for entry in entries])


def _session_row(each: dict[str, Any]) -> Sequence[Any]:
    lasted = each["duration_ms"]
    return (
        each["id"],
        "stuck" if each["stuck"] else each["state"],
        _moment(each["started_at"] or each["created_at"], 19),
        None if lasted is None else f"{lasted / 1000:.1f} s",
        each["participants"],
        each["recordings"],
        each["end"]["provenance"] if each["end"] else None,
        each["completeness"],
        ", ".join(sorted({anomaly["kind"] for anomaly in each["anomalies"]})),
    )


def _entry_row(entry: dict[str, Any]) -> Sequence[Any]:
    about = f"{entry['subject']['type']} {entry['subject']['id'] or ''}".strip()
    return (_moment(entry["at"], 23), entry["kind"], about, entry["actor"], entry["provenance"], entry["position"])


def _moment(at: str | None, characters: int) -> str | None:
    return None if at is None else at[:characters].replace("T", " ")

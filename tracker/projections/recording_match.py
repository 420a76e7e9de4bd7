"""Matches recording messages that do not name their recording: by an alias, else by time. Pure.

A vendor may report a recording under an id that the sender of an earlier message could not know yet. Such a message becomes an
interval under a made-up name. Here all facts of the session are known, so the interval is merged into the named recording that
began or stopped at about that moment. An interval that fits none stays a recording of its own.
"""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Micros
from tracker.projections.ids import interval_key
from tracker.projections.state import Interval

Intervals = dict[str, Interval]

_NOT_MERGED = frozenset({"id", "alias", "nameless"})
"""Values that a recording keeps when another interval is merged into it."""


def match_nameless(intervals: Intervals, tolerance: Micros) -> Intervals:
    """The recordings, with those known under two names or none merged. `tolerance`: µs between the two clocks."""
    found = {key: interval for key, interval in intervals.items() if not interval.value("nameless")}
    if len(found) < len(intervals) or any(interval.value("alias") for interval in found.values()):
        _merge_aliases(found)
        spans = _pair_ends(
            {key: interval for key, interval in intervals.items() if key not in found and interval.value("nameless")}
        )
        for span, key in _matches(spans, found, tolerance):
            found[key] = merge_intervals(found[key], spans.pop(span))
        found |= spans
    return found


def merge_intervals(first: Interval, second: Interval) -> Interval:
    """Both intervals as one, under the name of the first."""
    whole = msgspec.structs.replace(first, values=dict(first.values), statuses=dict(first.statuses))
    values = {name: value for name, value in second.values.items() if name not in _NOT_MERGED}
    whole.merge(msgspec.structs.replace(second, values=values))
    return whole


def _merge_aliases(found: Intervals) -> None:
    by_alias: dict[str, list[str]] = {}
    for key, interval in sorted(found.items()):
        alias = interval.value("alias")
        other = interval_key(alias) if isinstance(alias, str) else key
        if other != key and other in found:
            by_alias.setdefault(other, []).append(key)
    for alias, keys in sorted(by_alias.items()):
        # An alias of several recordings is ambiguous; one that was merged already is gone.
        if len(keys) == 1 and alias in found and keys[0] in found:
            found[keys[0]] = merge_intervals(found[keys[0]], found.pop(alias))


def _pair_ends(pieces: Intervals) -> Intervals:
    """Pair starts with stops: a stop belongs to the latest start before it."""
    starts = sorted((piece.start.at, key) for key, piece in pieces.items() if piece.start is not None)
    spans = {key: pieces[key] for _, key in starts}
    for _, key, piece in sorted(
        (piece.end.at, key, piece) for key, piece in pieces.items() if piece.start is None and piece.end
    ):
        before = [other for at, other in starts if piece.end is not None and at <= piece.end.at]
        if before and spans[before[-1]].end is None:
            spans[before[-1]] = merge_intervals(spans[before[-1]], piece)
        else:
            spans[key] = piece
    return spans


def _matches(spans: Intervals, found: Intervals, tolerance: Micros) -> list[tuple[str, str]]:
    """(span, recording) pairs, the closest first. Each span and each recording is in one pair at most."""
    pairs: list[tuple[int, Micros, str, str]] = []
    for span_key, span in spans.items():
        for key, recording in found.items():
            distance = _distance(span, recording)
            if distance is not None and (distance[0] or distance[1] <= tolerance):
                pairs.append((*distance, span_key, key))
    matched: list[tuple[str, str]] = []
    for _, _, span_key, key in sorted(pairs):
        if all(span_key != span and key != other for span, other in matched):
            matched.append((span_key, key))
    return matched


def _distance(span: Interval, recording: Interval) -> tuple[int, Micros] | None:
    """The distance: (0, µs) if the same end of both is known, (1, µs) if one can follow the other, else None."""
    if span.start_reported and recording.start_reported:
        return None
    if span.start is not None and recording.start is not None:
        return 0, abs(span.start.at - recording.start.at)
    if span.end is not None and recording.end is not None:
        return 0, abs(span.end.at - recording.end.at)
    if span.start is not None:
        ends = [recording.end] if recording.end else list(recording.statuses.values())
        after = min((claim.at for claim in ends), default=0) - span.start.at
        return (1, after) if after >= 0 else None
    if span.end is not None and recording.start is not None and recording.start.at <= span.end.at:
        return 1, span.end.at - recording.start.at
    return None

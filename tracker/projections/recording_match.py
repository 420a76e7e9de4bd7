"""Which recording was meant by messages that do not name it: by another name, else by time. Pure.

A vendor's webhooks may name a recording by an id that the application, which relays its start, does not know yet. Such a
message is kept as an interval of its own under a made-up name; here, where all facts of the session are known, it joins the
named recording that began (or stopped) at about that moment. What fits none stays a recording of its own.
"""

from __future__ import annotations

from tracker.domain.facts import Micros
from tracker.projections.state import Interval

Intervals = dict[str, Interval]

_OWN = frozenset({"id", "alias", "nameless"})
"""What a recording keeps when another interval joins it."""


def match_nameless(intervals: Intervals, tolerance: Micros) -> Intervals:
    """The recordings, once those told under two names, or under none, are together. `tolerance` µs between the two clocks."""
    found = {key: interval for key, interval in intervals.items() if not interval.value("nameless")}
    if len(found) < len(intervals) or any(interval.value("alias") for interval in found.values()):
        _join_aliases(found)
        spans = _spans(
            {key: interval for key, interval in intervals.items() if key not in found and interval.value("nameless")}
        )
        for span, key in _matches(spans, found, tolerance):
            found[key] = merge_intervals(found[key], spans.pop(span))
        found |= spans
    return found


def merge_intervals(first: Interval, second: Interval) -> Interval:
    """Both as one, under the first one's name."""
    whole = Interval(
        first.start, first.end, first.start_reported, first.end_reported, dict(first.values), dict(first.statuses)
    )
    if second.start is not None:
        whole.claim_start(second.start)
    if second.end is not None:
        whole.claim_end(second.end)
    whole.start_reported, whole.end_reported = (
        first.start_reported or second.start_reported,
        first.end_reported or second.end_reported,
    )
    for name, value in second.values.items():
        if name not in _OWN:
            whole.set_value(name, value.value, value.at, value.key)
    for name, claim in second.statuses.items():
        whole.set_status(name, claim)
    return whole


def _join_aliases(found: Intervals) -> None:
    by_alias: dict[str, list[str]] = {}
    for key, interval in sorted(found.items()):
        alias = interval.value("alias")
        if isinstance(alias, str) and alias != key and alias in found:
            by_alias.setdefault(alias, []).append(key)
    for alias, keys in sorted(by_alias.items()):
        # An alias of several tells nothing; one that was joined to another is gone.
        if len(keys) == 1 and alias in found and keys[0] in found:
            found[keys[0]] = merge_intervals(found[keys[0]], found.pop(alias))


def _spans(pieces: Intervals) -> Intervals:
    """Starts and stops paired: a stop belongs to the latest start before it."""
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
    """(span, recording) pairs, each at most once, the closest first."""
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
    """How far apart they are: (0, µs) where the same end of both is known, (1, µs) where one can follow the other, else None."""
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

"""Sets a session aside when its facts cannot be folded or rendered, so that the projector goes on with everything else.

Whether a session is set aside follows from its facts alone: live views equal rebuilt ones. What the views themselves refuse
to store is set aside where it is stored (`views/sqlite/refusals`).
"""

from __future__ import annotations

from tracker.domain.rows import EntryRow, SessionRows
from tracker.domain.set_aside import describe_error, set_aside_rows, stand_in_entry
from tracker.projections import timeline_entries
from tracker.projections.folding import fold
from tracker.projections.rendering import RenderContext, render, session_id
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import NO_CONTENT, SessionState, encode_state


def fold_or_mark(state: SessionState, item: SourcedFact) -> None:
    """Fold a fact. If that fails, mark the session: `render_or_set_aside` sets it aside."""
    try:
        fold(state, item)
    except Exception as error:
        state.mark_failed(item.position, item.n, describe_error(error))


def entry_or_stand_in(item: SourcedFact, session: str | None) -> EntryRow:
    """The timeline entry of a fact; one without content if it cannot be rendered."""
    try:
        return timeline_entries.render_entry(item, session)
    except Exception as error:
        return stand_in_entry(
            item.position, item.n, session, at=item.fact.at, received_at=item.received_at, source=item.source,
            clock=item.fact.clock, key=item.key, reason=f"this event cannot be shown ({describe_error(error)})",
        )  # fmt: skip


def render_or_set_aside(state: SessionState, context: RenderContext) -> SessionRows:
    """The rows of a session, or the row that stands for a session which is set aside."""
    if state.failed is None:
        try:
            return render(state, context)
        except Exception as error:
            position, reason = state.last_position, f"its rows cannot be made ({describe_error(error)})"
    elif state.failed[0] == NO_CONTENT:
        position, reason = state.last_position, state.failed[2]
    else:
        position, _, why = state.failed
        reason = f"this record cannot be folded into it ({why})"
    try:
        encoded = encode_state(state)
    except Exception:
        # What cannot be stored is not folded again before the next rebuild.
        state = state.without_content(reason)
        encoded = encode_state(state)
    return set_aside_rows(
        session_id(state.source, state.run), source=state.source, vendor=state.vendor, position=position,
        reason=reason, first_position=state.first_position, last_position=state.last_position, first_at=state.first_at,
        last_at=state.last_at, lookups=(state.run,), state=encoded,
    )  # fmt: skip

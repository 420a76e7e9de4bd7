"""What Tracker knows of eyeson StreamRec."""

from __future__ import annotations

from tracker.sources.contract import Vendor
from tracker.sources.sample_calls import SampleCall
from tracker.sources.streamrec.events import interpret, why_no_event
from tracker.sources.streamrec.sample_call import play, sign
from tracker.sources.streamrec.source import HINTS, RULES, StreamrecSource

VENDOR = Vendor(
    name="streamrec",
    title="StreamRec",
    build=StreamrecSource,
    interpret=interpret,
    rules=RULES,
    needs="secrets",
    least_secret=16,
    first_steps="Give StreamRec this address, followed by / and the secret of this source, as its webhook.",
    dictionary=40_005,
    why_no_event=why_no_event,
    import_hints=HINTS,
    sample=SampleCall(source="rec", play=play, sign=sign),
)

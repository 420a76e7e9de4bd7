"""What Tracker knows of Jitsi Meet."""

from __future__ import annotations

from tracker.sources.contract import Vendor
from tracker.sources.jitsi.events import interpret
from tracker.sources.jitsi.sample_call import play, sign
from tracker.sources.jitsi.source import RULES, JitsiSource, why_no_event
from tracker.sources.sample_calls import SampleCall

VENDOR = Vendor(
    name="jitsi",
    title="Jitsi Meet",
    build=JitsiSource,
    interpret=interpret,
    rules=RULES,
    needs="secrets",
    least_secret=16,
    accepts=frozenset({"header"}),
    first_steps=(
        "Install event_sync of jitsi-contrib/prosody-plugins in Prosody, set its api_prefix to this address, and its"
        " api_headers to the secret of this source."
    ),
    dictionary=40_006,
    why_no_event=why_no_event,
    sample=SampleCall(source="jitsi", play=play, sign=sign),
)

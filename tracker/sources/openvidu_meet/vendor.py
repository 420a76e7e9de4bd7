"""What Tracker knows of OpenVidu Meet."""

from __future__ import annotations

from tracker.sources.contract import Vendor
from tracker.sources.openvidu_meet.events import interpret, room_state
from tracker.sources.openvidu_meet.sample_call import play, sign
from tracker.sources.openvidu_meet.source import RULES, OpenviduMeetSource, headers_from_proof, why_no_event
from tracker.sources.sample_calls import SampleCall

VENDOR = Vendor(
    name="openvidu_meet",
    title="OpenVidu Meet",
    build=OpenviduMeetSource,
    interpret=interpret,
    rules=RULES,
    needs="secrets",
    # MEET_INITIAL_API_KEY of local deployments and of the tutorials.
    known_secrets=frozenset({"meet-api-key"}),
    signs_body=True,
    first_steps="In OpenVidu Meet's console, turn webhooks on, enter this address, and put its API key into this source.",
    why_no_event=why_no_event,
    dictionary=40_002,
    headers_from_proof=headers_from_proof,
    room_state=room_state,
    sample=SampleCall(source="meet", play=play, sign=sign),
)

"""What Tracker knows of LiveKit, and so of OpenVidu 3."""

from __future__ import annotations

from tracker.sources.contract import Vendor
from tracker.sources.livekit.events import KNOWN_EVENTS, interpret
from tracker.sources.livekit.sample_call import play, sign
from tracker.sources.livekit.source import RULES, LivekitSource
from tracker.sources.protojson_recognition import why_no_webhook
from tracker.sources.sample_calls import SampleCall
from tracker.sources.webhook_jwt import headers_from_proof

VENDOR = Vendor(
    name="livekit",
    title="LiveKit",
    build=LivekitSource,
    interpret=interpret,
    rules=RULES,
    needs="keys",
    # `livekit-server --dev`, and local deployments of OpenVidu 3 (`devkey`).
    known_secrets=frozenset({"secret", "devkey"}),
    signs_body=True,
    first_steps=(
        "In LiveKit's configuration, add this address under webhook.urls with the api_key of this source; then restart"
        " LiveKit."
    ),
    why_no_event=lambda fields, _where: why_no_webhook(fields, KNOWN_EVENTS),
    dictionary=40_003,
    headers_from_proof=headers_from_proof,
    sample=SampleCall(source="lk", play=play, sign=sign, issuer="APIdemo"),
)

"""What Tracker knows of BigBlueButton."""

from __future__ import annotations

from tracker.sources.bigbluebutton.events import interpret
from tracker.sources.bigbluebutton.sample_call import HOOK_URL, play, sign
from tracker.sources.bigbluebutton.source import (
    RULES,
    BigBlueButtonSource,
    form_event,
    headers_from_proof,
    query_from_proof,
    why_no_event,
)
from tracker.sources.contract import Vendor
from tracker.sources.sample_calls import SampleCall

VENDOR = Vendor(
    name="bigbluebutton",
    title="BigBlueButton",
    build=BigBlueButtonSource,
    interpret=interpret,
    rules=RULES,
    needs="secrets",
    # From the API's documentation, and of the public test server.
    known_secrets=frozenset({"639259d4-9dd8-4b25-bf01-95f9567eaf4b", "8cd8ef52e8e101574e400365b55e11a6"}),
    accepts=frozenset({"hook_url", "accept_unbound_checksum"}),
    requires=frozenset({"hook_url"}),
    signs_body=True,
    first_steps=(
        "On the BigBlueButton server, add this address to permanentURLs of bbb-webhooks 3.4 or newer, and restart it. Put the"
        " same address into hook_url of this source, and the secret that `bbb-conf --secret` prints."
    ),
    headers_from_proof=headers_from_proof,
    query_from_proof=query_from_proof,
    dictionary=40_008,
    why_no_event=why_no_event,
    form_event=form_event,
    sample=SampleCall(source="bbb", play=play, sign=sign, hook_url=HOOK_URL),
)

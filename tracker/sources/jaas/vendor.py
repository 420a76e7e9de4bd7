"""What Tracker knows of JaaS."""

from __future__ import annotations

from tracker.sources.contract import Vendor
from tracker.sources.jaas.events import interpret
from tracker.sources.jaas.sample_call import play, sign
from tracker.sources.jaas.source import RULES, JaasSource, headers_from_proof, why_no_event
from tracker.sources.sample_calls import SampleCall

VENDOR = Vendor(
    name="jaas",
    title="JaaS",
    build=JaasSource,
    interpret=interpret,
    rules=RULES,
    needs="secrets",
    signs_body=True,
    first_steps=(
        "In the JaaS console, under Webhooks, add an endpoint with this address, choose its events (not"
        " SETTINGS_PROVISIONING, which wants an answer), and put its signing secret into this source."
    ),
    headers_from_proof=headers_from_proof,
    dictionary=40_007,
    why_no_event=why_no_event,
    sample=SampleCall(source="jaas", play=play, sign=sign),
)

"""What Tracker knows of plugNmeet."""

from __future__ import annotations

from tracker.sources.contract import Vendor
from tracker.sources.plugnmeet.events import KNOWN_EVENTS, interpret
from tracker.sources.plugnmeet.sample_call import play, sign
from tracker.sources.plugnmeet.source import RULES, PlugnmeetSource
from tracker.sources.protojson_recognition import why_no_webhook
from tracker.sources.sample_calls import SampleCall
from tracker.sources.webhook_jwt import headers_from_proof

VENDOR = Vendor(
    name="plugnmeet",
    title="plugNmeet",
    build=PlugnmeetSource,
    interpret=interpret,
    rules=RULES,
    needs="keys",
    # config_sample.yaml.
    known_secrets=frozenset({"zumyyYWqv7KR2kUqvYdq4z4sXg7XTBD2ljT6"}),
    signs_body=True,
    first_steps=(
        "In plugNmeet's configuration, turn webhook_conf on and enter this address; its api_key and secret are those of"
        " this source."
    ),
    why_no_event=lambda fields, _where: why_no_webhook(fields, KNOWN_EVENTS),
    dictionary=40_004,
    headers_from_proof=headers_from_proof,
    sample=SampleCall(source="pnm", play=play, sign=sign, issuer="plugnmeet"),
)

"""What Tracker knows of OpenVidu 2."""

from __future__ import annotations

import re

from tracker.sources.contract import LogFiles, Vendor
from tracker.sources.openvidu.events import interpret
from tracker.sources.openvidu.recognition import why_no_event
from tracker.sources.openvidu.sample_call import play, sign
from tracker.sources.openvidu.source import RULES, OpenviduSource
from tracker.sources.openvidu.wire import former_keys
from tracker.sources.sample_calls import SampleCall

VENDOR = Vendor(
    name="openvidu",
    title="OpenVidu 2",
    build=OpenviduSource,
    interpret=interpret,
    rules=RULES,
    needs="secrets",
    # The default of OPENVIDU_SECRET, and the header in the documentation of webhooks (OPENVIDUAPP:MY_SECRET in base64).
    known_secrets=frozenset({"MY_SECRET", "OPENVIDUAPP:MY_SECRET", "Basic T1BFTlZJRFVBUFA6TVlfU0VDUkVU"}),
    accepts=frozenset({"header"}),
    first_steps=(
        "In OpenVidu's .env set OPENVIDU_WEBHOOK=true, OPENVIDU_WEBHOOK_ENDPOINT to this address, and"
        " OPENVIDU_WEBHOOK_HEADERS to the header and secret of this source; then restart OpenVidu."
    ),
    dictionary=40_001,
    why_no_event=why_no_event,
    former_keys=former_keys,
    import_hints=("run", "folder"),
    log_files=LogFiles(
        name=re.compile(
            r"^CDR\.(?P<date>\d{4}-\d{2}-\d{2})_(?P<run>\d{2}-\d{2}-\d{2})\.log(?:[.-]\d[\d_.:TZ-]*?)?(\.gz)?$"
        ),
        logger=re.compile(rb"CDRLogger|CallDetailRecord"),
    ),
    sample=SampleCall(source="ov", play=play, sign=sign),
)

"""What to change when deliveries do not arrive: a meaning and a remedy for each outcome, first steps for each vendor."""

from __future__ import annotations

REMEDIES = {
    "signature_missing": (
        "No proof came with them",
        "Switch signing on at the sender and give it the secret of this source. A proxy in between has to pass the headers on.",
    ),
    "signature_mismatch": (
        "The proof does not fit the bytes",
        "The secrets differ, or something in between changes the body: compare them, and let proxies pass the body on as it is.",
    ),
    "signature_stale": (
        "The proof is from another time",
        "The clocks of both hosts differ, or old deliveries are sent again: set both with NTP.",
    ),
    "key_unknown": (
        "The proof names a key not configured here",
        "Add the sender's key to this source in config.toml, and restart.",
    ),
    "source_unknown": (
        "No source has that name",
        "The sender's address ends in another name than any [[sources]] in config.toml: correct one of them.",
    ),
    "body_too_large": ("The body is too large", "Raise server.max_body_bytes in config.toml, and restart."),
    "body_broken": (
        "The body stopped half-way or took too long",
        "The sender or a proxy gave up: look at their timeouts and at the network between.",
    ),
    "log_busy": (
        "Too many waited for the disk",
        "The disk is too slow for what comes in: look at tracker_append_seconds.",
    ),
    "log_unavailable": (
        "The log could not take them",
        "Disk full, or the file locked or gone: this server's output says which.",
    ),
    "log_missing": ("The log is gone", "Put the log back where log.path says; this server's output says more."),
    "log_corrupt": ("The log cannot be read", "Stop, and follow docs/guides/backup.md: restore the log from its copy."),
    "failed": ("A mistake in Tracker", "This server's output says where it is: please report it."),
    "unreadable": (
        "Recorded, but they cannot be read",
        "They are in the log and lose nothing: a version of Tracker that reads them heals the history with a rebuild.",
    ),
    "unknown_event": (
        "Recorded, of an event not known",
        "They are in the log and in timelines as they came; a later version may understand them.",
    ),
}
"""Outcome of a delivery → what it means, and what to change."""

FIRST_STEPS = {
    "openvidu": "In OpenVidu's .env set OPENVIDU_WEBHOOK=true, OPENVIDU_WEBHOOK_ENDPOINT to this address, and OPENVIDU_WEBHOOK_HEADERS to the header and secret of this source; then restart OpenVidu.",
    "openvidu_meet": "In OpenVidu Meet's console switch webhooks on, enter this address, and put its API key into this source.",
    "livekit": "In LiveKit's configuration add this address under webhook.urls with the api_key of this source; then restart LiveKit.",
    "plugnmeet": "In plugNmeet's configuration switch webhook_conf on and enter this address; its api_key and secret are those of this source.",
    "streamrec": "Give StreamRec this address, followed by / and the secret of this source, as its webhook.",
}
"""What to do where a source never sent anything, by vendor."""

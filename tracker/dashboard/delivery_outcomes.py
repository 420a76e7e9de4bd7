"""What each outcome of a delivery means, and what to change when deliveries are refused."""

from __future__ import annotations

OUTCOMES = {
    "signature_missing": (
        "No proof came with them",
        "Turn signing on at the sender and give it the secret of this source. A proxy in between must forward the headers.",
    ),
    "signature_mismatch": (
        "The proof does not match the bytes",
        "The secrets differ, or something in between changes the body: compare the secrets, and let proxies forward the body unchanged.",
    ),
    "signature_stale": (
        "The proof was made at another time",
        "The clocks of the two hosts differ, or old deliveries are being replayed: synchronise both clocks with NTP.",
    ),
    "key_unknown": (
        "The proof names a key that is not configured here",
        "Add the sender's key to this source in config.toml, and restart.",
    ),
    "source_unknown": (
        "No source has that name",
        "The address at the sender ends in a name that no [[sources]] table in config.toml has: correct one of the two.",
    ),
    "body_too_large": ("The body is too large", "Raise server.max_body_bytes in config.toml, and restart."),
    "body_incomplete": (
        "The body stopped half-way or took too long",
        "The sender or a proxy gave up: check their timeouts and the network in between.",
    ),
    "body_broken": (
        "The body is not what its Content-Encoding says",
        "A proxy in between changes the body or the header: let it pass both on unchanged.",
    ),
    "encoding_unsupported": (
        "The body has a Content-Encoding other than gzip and deflate",
        "Switch the compression off at the sender or the proxy, or choose gzip.",
    ),
    "log_busy": (
        "Too many deliveries were waiting for the disk",
        "The disk is too slow for this traffic: check tracker_append_seconds.",
    ),
    "log_unavailable": (
        "The log could not record them",
        "The disk is full, or the file is locked or missing: this server's output says which.",
    ),
    "log_missing": ("The log file is missing", "Restore the log at log.path; this server's output says more."),
    "log_corrupt": (
        "The log cannot be read",
        "Stop the server, and follow docs/guides/backup.md: restore the log from its backup.",
    ),
    "failed": ("A bug in Tracker", "This server's output says where: please report it."),
    "unreadable": (
        "Recorded, but cannot be read",
        "Nothing is lost: they are in the log, and a version of Tracker that can read them repairs the history with a rebuild.",
    ),
    "unknown_event": (
        "Recorded, but the event is unknown",
        "They are in the log, and timelines show them raw; a later version may understand them.",
    ),
}
"""Outcome → (what it means, what to change)."""

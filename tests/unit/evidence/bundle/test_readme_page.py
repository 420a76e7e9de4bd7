"""The README of a bundle: its version identifies its text, and the limits of the evidence are at the top."""

from __future__ import annotations

import hashlib

import pytest

from tracker.evidence.bundle import readme_page
from tracker.evidence.bundle.manifest import (
    FORMAT, InferredEnd, Manifest, Member, ReadingSettings, SessionIdentity, Tree, WriterVersion,
)  # fmt: skip

DIGESTS = {2: "f020a28c4a29fdcf580958e75e96bf63331a8a365e0c1bacb3c3e829f32a9cb2"}
"""Of each version of the page, the digest of `EVERYTHING`. Add a line, with a new version, and change none."""


def manifest(*, why: str | None = None, hidden: tuple[str, ...] = (), withheld: tuple[int, ...] = ()) -> Manifest:
    return Manifest(
        format=FORMAT,
        made_at="2026-12-01T00:00:00.000000Z",
        tracker=WriterVersion(version="1.2.3", reading=3, page=readme_page.PAGE_VERSION),
        session=SessionIdentity(id="lk:<RM>", source="lk", vendor="livekit"),
        records=2,
        erasures=len(withheld),
        withheld=list(withheld),
        entries=1,
        tree=Tree(size=9, root="AA==", why_unsigned=why),
        reading=ReadingSettings(
            hidden=list(hidden),
            stuck_after_ms=1,
            inferred_end=InferredEnd(at="2026-12-01T00:00:00.000000Z", reason="timeout"),
        ),
        files=[Member(name="records.jsonl", size_bytes=1, sha256="00")],
        why_unsigned=why,
    )


ENTRY = {
    "subject": {"type": "participant", "id": "<b>"}, "detail": {"a": "x" * 400}, "kind": "participant.joined",
    "at": "2026-12-01T00:00:00.000Z", "actor": "\u202eevil", "provenance": "reported", "position": 1,
}  # fmt: skip
EVERYTHING = b"".join(
    b"".join(readme_page.page(each, [ENTRY]))
    for each in (manifest(), manifest(why="no key", hidden=("name", "<ip>"), withheld=(7,)))
)


def test_the_page_changes_only_with_its_version() -> None:
    """The version distinguishes older pages from forged ones, so a change of the page needs a new `PAGE_VERSION`."""
    assert hashlib.sha256(EVERYTHING).hexdigest() == DIGESTS[readme_page.PAGE_VERSION]


@pytest.mark.parametrize(
    "words",
    [
        "<b>This bundle is not signed.</b> no key",
        "<b>Its tree is not signed.</b> no key",
        "<b>The operator hides fields:</b> <code>name</code>, <code>&lt;ip&gt;</code>",
        "without the fields that the operator hides: <code>name</code>",
        "it does not prove that they were erased",
    ],
)
def test_the_page_states_the_limits_of_the_evidence(words: str) -> None:
    assert words in EVERYTHING.decode()
    assert words not in b"".join(readme_page.page(manifest(), [ENTRY])).decode()


def test_foreign_text_is_escaped() -> None:
    page = EVERYTHING.decode()
    assert "<b>participant" not in page
    assert "lk:&lt;RM&gt;" in page
    assert "\u202e" not in page

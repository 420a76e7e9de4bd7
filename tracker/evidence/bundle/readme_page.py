"""README.html of a bundle: explains the evidence to people who judge it and write no software.

The page has no scripts and loads nothing; everything that came from a call is escaped. The same manifest and entries give
the same bytes: `tracker verify` builds the page again and compares. Bundles name the version of their page: every change of
what is written here needs a new `PAGE_VERSION`, so that older pages are reported as not checked and not as forged.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import msgspec

from tracker.evidence.bundle.manifest import MANIFEST, SIGNATURE, Manifest, digest_without_readme

PAGE_VERSION = 2
MAX_DETAIL_CHARS = 300
"""Longer details are cut off in the table."""

TOP = (resources.files("tracker.evidence.bundle") / "readme_page.html").read_text("utf-8")
"""The page up to the rows of its table, for `str.format`."""
END = "</tbody></table>\n</body></html>\n"

FILE_CONTENTS = {
    MANIFEST: "what this bundle is, and the digest of every other file",
    "records.jsonl": "the messages as they were received, one per line, each with its leaf of the log's tree",
    "proofs.json": "for each message, the hashes from its leaf to the root of the tree",
    "timeline.json": "what Tracker derives from the messages: the session, its participants, and this table",
    "checkpoint.txt": "the signed statement about the tree",
    "key.txt": "the public keys of the log",
}


def page_top(manifest: Manifest) -> bytes:
    """The page up to the rows of its table. `manifest` is that of the bundle without the page."""
    tree = f"this signed statement covers all {manifest.tree.size} messages that the log had then."
    if manifest.tree.why_unsigned is not None:
        tree = "<b>not proved by this bundle</b>, which is not signed."
    whole = f"<code>{SIGNATURE}</code> signs the digest of <code>{MANIFEST}</code>, which names that of every file."
    if manifest.why_unsigned is not None:
        whole = "<b>not proved</b>: nobody signed it."
    hidden = _listed(manifest.reading.hidden)
    end = manifest.reading.inferred_end
    inferred_end = (
        "" if end is None else f" In this bundle, that includes the end of the session ({_shown(end.reason)})."
    )
    files = "".join(
        f"<tr><td>{_shown(each.name)}</td><td>{FILE_CONTENTS.get(each.name, '')}</td><td>{each.size_bytes}</td>"
        f"<td><code>{_shown(each.sha256)}</code></td></tr>\n"
        for each in manifest.files
        if each.name in FILE_CONTENTS
    )
    text = TOP.format(
        seal=digest_without_readme(manifest),
        source=_shown(manifest.session.source),
        vendor=_shown(manifest.session.vendor),
        session=_shown(manifest.session.id),
        records=manifest.records,
        made_at=_shown(manifest.made_at),
        version=_shown(manifest.tracker.version),
        reading=manifest.tracker.reading,
        warnings=_warnings(manifest),
        tree=tree,
        whole=whole,
        hidden=f", without the fields that the operator hides: {hidden}" if hidden else "",
        inferred_end=inferred_end,
        exception="" if end is None else " One exception, the end of the session, is named below.",
        files=files,
    )
    return _encoded(text)


def page_row(entry: Mapping[str, Any]) -> bytes:
    """One entry of timeline.json as a table row."""
    subject = entry["subject"]
    subject_text = f"{subject['type']} {subject['id'] or ''}".strip()
    detail = msgspec.json.encode(entry["detail"]).decode() if entry["detail"] else ""
    if len(detail) > MAX_DETAIL_CHARS:
        detail = detail[:MAX_DETAIL_CHARS] + "…"
    kind = str(entry["kind"]).replace(".", " ").replace("_", " ")
    at = str(entry["at"] or "").replace("T", " ").removesuffix("Z")
    cells = (at, kind, subject_text, entry["actor"] or "", entry["provenance"], entry["position"], detail)
    return _encoded("<tr>" + "".join(f"<td>{_shown(str(cell))}</td>" for cell in cells) + "</tr>\n")


def page(manifest: Manifest, entries: Iterable[Mapping[str, Any]]) -> Iterable[bytes]:
    """The whole page in pieces."""
    yield page_top(manifest)
    yield from map(page_row, entries)
    yield _encoded(END)


def _warnings(manifest: Manifest) -> str:
    warnings: list[str] = []
    for what, why in (("This bundle", manifest.why_unsigned), ("Its tree", manifest.tree.why_unsigned)):
        if why is not None:
            warnings.append(
                f"<b>{what} is not signed.</b> {_shown(why)}. Without that signature, anyone could have written it: you can "
                "only verify that its files agree with each other."
            )
    if manifest.reading.hidden:
        warnings.append(
            f"<b>The operator hides fields:</b> {_listed(manifest.reading.hidden)}. They are missing in the table and in "
            "<code>timeline.json</code>, and present in the messages."
        )
    if manifest.unbound:
        warnings.append(
            f"<b>The senders' proofs of {manifest.unbound} messages do not cover their content:</b> they show that the sender "
            "knew a secret. Somebody who saw one message could have written another. That the log has not changed since is "
            "proved for all."
        )
    if manifest.erasures:
        warnings.append(
            "Some messages were erased to protect the people in them. Their positions in the log are still proved; the "
            "table shows pseudonyms (<code>erased-…</code>) instead of names."
        )
    if manifest.withheld:
        warnings.append(
            "This bundle leaves out what remains of some erased messages: the person who requested it may not read them. "
            "So it does not prove that they were erased, and not only left out."
        )
    return "".join(f'<p class="warn">{each}</p>\n' for each in warnings)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"<code>{_shown(name)}</code>" for name in names)


def _shown(text: str) -> str:
    """Foreign text: escaped, and without invisible characters and those that change the writing direction."""
    return html.escape("".join(each if each.isprintable() else "\ufffd" for each in text))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")

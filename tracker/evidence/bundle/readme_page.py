"""README.html of a bundle: explains the evidence to people who judge it and write no software.

The page has no scripts and loads nothing; everything that came from a call is escaped. The same manifest and entries give
the same bytes: `tracker verify` builds the page again and compares. A bundle written by another version of Tracker may
have another page; then the check is skipped, not failed.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tracker.evidence.bundle.manifest import MANIFEST, Manifest, digest_without_readme

MAX_DETAIL_CHARS = 300
"""Longer details are cut off in the table."""

STYLE = """\
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}table{border-collapse:collapse;width:100%;font-size:.85rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #d0d7de;overflow-wrap:anywhere}
th,td:first-child{white-space:nowrap}th:nth-child(2),th:nth-child(3){min-width:7.5rem}
code,pre{font:.85rem ui-monospace,monospace;background:#f3f4f6;padding:.1rem .3rem;overflow-wrap:anywhere}
pre{padding:.6rem;white-space:pre-wrap}.warn{border-left:4px solid #b35900;padding:.2rem 1rem;background:#fff6e5}"""

HEAD = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="manifest" content="{seal}">
<title>Evidence of {session}</title>
<style>
{style}
</style></head><body>
"""

TOP = """\
<h1>Evidence of one session</h1>
<p>This bundle documents the session <code>{session}</code>: the {records} messages that the video server
<b>{source}</b> ({vendor}) sent to Tracker about it, exactly as they were received, and what Tracker derives from them.
Tracker {version} made it on {made_at} (UTC, by the clock of its server).</p>
{warnings}<h2>How to verify it</h2>
<p>Install Tracker on any computer. It needs neither the server that made this bundle nor a network. Then run</p>
<pre>tracker verify THIS-BUNDLE.zip --key KEY</pre>
<p><code>KEY</code> is the public key of the log. Get it from the operator in another way than this bundle (a contract, their
web site, an earlier bundle): the file <code>key.txt</code> only proves that the bundle agrees with itself. If you have
the secrets of the video servers, add <code>--config config.toml</code>: then their signatures are verified too. The
documentation of Tracker (<code>docs/reference/bundle.md</code>) explains how to verify the bundle with other software, byte
by byte.</p>
<h2>What is proved</h2>
<ul>
<li>Each message is, byte for byte, the one at its position in the log: its body, its proof of origin, and the time it was
received. A single changed letter would be noticed.</li>
<li>Each message was in the log when <code>checkpoint.txt</code> was signed: {tree}</li>
<li>The table below follows from these messages by the rules of Tracker (reading {reading}).{exception}</li>
</ul>
<h2>What is not proved</h2>
<ul>
<li>That the bundle is complete. It proves what it contains, not that nothing was left out. The operator can have the whole
log verified where it is kept, with the same checkpoint.</li>
<li>That the video server told the truth, or that its clock was right.</li>
<li>When the log was signed, unless others who received the checkpoint confirm it. An operator who has the key and every copy
of the checkpoints since the beginning could have written another log. Checkpoints that are sent elsewhere in time prevent that.</li>
<li>Everything marked <i>inferred</i>: no message states it, a rule concluded it.{inferred_end}</li>
</ul>
<h2>The files</h2>
<table><thead><tr><th>file</th><th>content</th><th>bytes</th><th>SHA-256</th></tr></thead><tbody>
{files}</tbody></table>
<h2>What happened</h2>
<p>Times are UTC. <i>reported</i>: a message states it. <i>derived</i>: another message implies it. <i>inferred</i>: a rule concluded it.
The position is that of the message in the log.</p>
<table><thead><tr><th>time</th><th>event</th><th>subject</th><th>person</th><th>basis</th><th>position</th><th>details</th></tr></thead><tbody>
"""

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
    head = HEAD.format(seal=digest_without_readme(manifest), session=_shown(manifest.session.id), style=STYLE)
    tree = f"this signed statement covers all {manifest.tree.size} messages that the log had then."
    if manifest.tree.why_unsigned is not None:
        tree = "<b>not proved by this bundle</b>, which is not signed."
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
    body = TOP.format(
        source=_shown(manifest.session.source),
        vendor=_shown(manifest.session.vendor),
        session=_shown(manifest.session.id),
        records=manifest.records,
        made_at=_shown(manifest.made_at),
        version=_shown(manifest.tracker.version),
        reading=manifest.tracker.reading,
        warnings=_warnings(manifest),
        tree=tree,
        inferred_end=inferred_end,
        exception="" if end is None else " One exception, the end of the session, is named below.",
        files=files,
    )
    return _encoded(head + body)


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
    if manifest.tree.why_unsigned is not None:
        warnings.append(
            f"<b>This bundle is not signed.</b> {_shown(manifest.tree.why_unsigned)}. You can only verify that its files "
            "agree with each other."
        )
    if manifest.erasures:
        warnings.append(
            "Some messages were erased to protect the people in them. Their positions in the log are still proved; the "
            "table shows pseudonyms (<code>erased-…</code>) instead of names."
        )
    if manifest.withheld:
        warnings.append(
            "This bundle leaves out what remains of some erased messages: the person who requested it may not read them."
        )
    return "".join(f'<p class="warn">{each}</p>\n' for each in warnings)


def _shown(text: str) -> str:
    """Foreign text: escaped, and without invisible characters and those that change the writing direction."""
    return html.escape("".join(each if each.isprintable() else "\ufffd" for each in text))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")

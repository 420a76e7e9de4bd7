"""README.html of a bundle: for somebody who has to judge it and writes no software.

No scripts, nothing from elsewhere, and everything that came from a call is escaped. The same manifest and the same
entries give the same bytes: `tracker verify` makes the page again and compares.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tracker.evidence.bundle.manifest import MANIFEST, Manifest, digest_without_readme

MAX_DETAIL_CHARS = 300

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
<h1>Evidence of one call</h1>
<p>These files hold what the video server <b>{source}</b> ({vendor}) told Tracker about the session <code>{session}</code>:
{records} messages, exactly as they came, and what Tracker reads from them. Made {made_at} (UTC, by the clock of the
server that made it) by Tracker {version}.</p>
{warnings}<h2>How to check it</h2>
<p>Install Tracker on any computer; it needs neither the server this came from nor the network. Then run</p>
<pre>tracker verify THIS-BUNDLE.zip --key KEY</pre>
<p>where <code>KEY</code> is the public key of this log, which you should have from the operator by another way than this
bundle (a contract, their web site, an earlier bundle): the <code>key.txt</code> in here proves only that the bundle agrees with
itself. Whoever has the secrets of the video servers adds <code>--config config.toml</code>, and the signatures of the
video servers are checked again too. How to check it with other software, byte by byte, is in
<code>docs/reference/bundle.md</code> of Tracker.</p>
<h2>What is proved</h2>
<ul>
<li>Each message is, byte for byte, the one that stands at its position of the log: its body, what came to prove it, and
when it was received. One changed letter would be noticed.</li>
<li>Each message was in the log when <code>checkpoint.txt</code> was signed: {tree}</li>
<li>The table below follows from these messages, by the rules of reading {reading} of Tracker.{but}</li>
</ul>
<h2>What is not proved</h2>
<ul>
<li>That this is everything: a bundle shows what is in it, not that nothing was left out. The whole log can be verified
where it is kept, with the same checkpoint.</li>
<li>That the video server told the truth, or that its clock was right.</li>
<li>When the log was signed, beyond what others who received the checkpoint can say: an operator who owns the key and every copy of
the checkpoints from the beginning could have written another log. Checkpoints that were sent elsewhere at the time prevent that.</li>
<li>What is marked <i>inferred</i>: no message said it, it was worked out by a rule.{outside}</li>
</ul>
<h2>The files</h2>
<table><thead><tr><th>file</th><th>what</th><th>bytes</th><th>SHA-256</th></tr></thead><tbody>
{files}</tbody></table>
<h2>What happened</h2>
<p>Times are UTC. <i>reported</i>: a message said so. <i>derived</i>: another message implies it. <i>inferred</i>: a rule concludes it.
The number is the message's position in the log.</p>
<table><thead><tr><th>time</th><th>what</th><th>about</th><th>who</th><th>how sure</th><th>position</th><th>more</th></tr></thead><tbody>
"""

END = "</tbody></table>\n</body></html>\n"

ABOUT = {
    MANIFEST: "what this is, and the digest of every other file",
    "records.jsonl": "the messages as they came, one a line, each with its leaf of the log's tree",
    "proofs.json": "for each message, the proof that it is in the log",
    "timeline.json": "what Tracker reads from the messages",
    "checkpoint.txt": "the signed statement about the whole log",
    "key.txt": "the public keys of such statements",
}


def page_top(manifest: Manifest) -> bytes:
    """The page up to the rows of its table. `manifest` as it is without the page."""
    head = HEAD.format(seal=digest_without_readme(manifest), session=_shown(manifest.session.id), style=STYLE)
    tree = f"one signed statement fixes all {manifest.tree.size} messages of the log as it was then."
    if manifest.tree.why_unsigned is not None:
        tree = "<b>not in this bundle</b>, it is not signed."
    end = manifest.reading.inferred_end
    outside = "" if end is None else f" Here also the end of the session ({_shown(end.reason)})."
    files = "".join(
        f"<tr><td>{_shown(each.name)}</td><td>{ABOUT.get(each.name, '')}</td><td>{each.size_bytes}</td>"
        f"<td><code>{_shown(each.sha256)}</code></td></tr>\n"
        for each in manifest.files
        if each.name in ABOUT
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
        outside=outside,
        but="" if end is None else " (One end does not: see below.)",
        files=files,
    )
    return _encoded(head + body)


def page_row(entry: Mapping[str, Any]) -> bytes:
    """One entry of timeline.json as a row."""
    subject = entry["subject"]
    about = f"{subject['type']} {subject['id'] or ''}".strip()
    detail = msgspec.json.encode(entry["detail"]).decode() if entry["detail"] else ""
    if len(detail) > MAX_DETAIL_CHARS:
        detail = detail[:MAX_DETAIL_CHARS] + "…"
    kind = str(entry["kind"]).replace(".", " ").replace("_", " ")
    at = str(entry["at"] or "").replace("T", " ").removesuffix("Z")
    cells = (at, kind, about, entry["actor"] or "", entry["provenance"], entry["position"], detail)
    return _encoded("<tr>" + "".join(f"<td>{_shown(str(cell))}</td>" for cell in cells) + "</tr>\n")


def page(manifest: Manifest, entries: Iterable[Mapping[str, Any]]) -> Iterable[bytes]:
    """The page in pieces."""
    yield page_top(manifest)
    yield from map(page_row, entries)
    yield _encoded(END)


def _warnings(manifest: Manifest) -> str:
    told: list[str] = []
    if manifest.tree.why_unsigned is not None:
        told.append(
            f"<b>Nobody signed this.</b> {_shown(manifest.tree.why_unsigned)}. The files agree with each other, and that "
            "is all that can be checked."
        )
    if manifest.erasures:
        told.append(
            "Some messages were erased on purpose, for the sake of the people in them. Their places in the log are proved as "
            "before; instead of names the table has pseudonyms (<code>erased-…</code>)."
        )
    if manifest.withheld:
        told.append("What is left of some erased messages is not in this bundle: whoever asked for it may not read it.")
    return "".join(f'<p class="warn">{each}</p>\n' for each in told)


def _shown(text: str) -> str:
    """Text from elsewhere: escaped, and without characters that nobody sees or that turn the writing around."""
    return html.escape("".join(each if each.isprintable() else "\ufffd" for each in text))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")

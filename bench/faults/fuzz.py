"""Fuzzed deliveries: `python -m bench.faults.fuzz [--inputs 1000000] [--vendors openvidu,livekit …] [--mutations]`.

Coverage-guided by atheris if it is installed (`pip install -e '.[faults]'`); otherwise, and with `--mutations`, by random
changes to the samples. Each input is a body with headers for the `verify` of a vendor. Then, whatever `verify` answered, the
same body is a record for `interpret`. `verify` may raise only `DeliveryRejected`, `interpret` nothing, and neither may take
longer than two seconds. With mutations, the first `--save` records of each vendor are then projected: live in batches of
random sizes, rebuilt in one process, and rebuilt in parts. No session may be set aside, and all views must be equal.
Findings are written to `--keep`; they belong into tests/samples/fuzzed.jsonl.
Prints a table; the exit code is 1 if there are findings.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import report

if TYPE_CHECKING:
    # Imported when used: atheris instruments only what is imported after it.
    from tracker.domain.deliveries import Verified

ROOT = Path(__file__).parent.parent.parent
VENDORS = ("openvidu", "openvidu_meet", "livekit", "plugnmeet", "streamrec", "bigbluebutton", "jaas")
"""Not jitsi: its address follows from the body. Not declared: its declaration would have to be in every log."""
SLOW_SECONDS = 2.0


class Target:
    """`verify` and `interpret` of one vendor, as a function of bytes."""

    def __init__(self, vendor: str, save: int = 0) -> None:
        self.save = save
        from tests.support.declarations import understand
        from tests.support.samples import LATER, SECRET
        from tracker.demo.calls import settings, sign
        from tracker.domain.deliveries import Delivery, Record
        from tracker.errors import DeliveryRejected
        from tracker.sources import registry

        understand()
        self.source = registry.build(settings(vendor, SECRET))
        # The vendor's own function: the registry turns its exceptions into an `unreadable` fact.
        self._interpret = registry.VENDORS[vendor].interpret
        self._vendor, self._secret, self._later = vendor, SECRET, LATER
        self._sign, self._delivery, self._record, self._rejected = sign, Delivery, Record, DeliveryRejected
        self.verified = self.rejected = self.facts = 0
        self.slowest = 0.0
        self.verified_records: list[Any] = []
        """What was verified, or else named as an import: what is projected afterwards."""

    def one(self, data: bytes) -> None:
        """Run one input; raises errors that the functions must not raise. The first byte chooses what is wrong with the proof."""
        began = time.perf_counter()
        how, body = (data[0], data[1:]) if data else (0, b"")
        headers, suffix, _ = self._sign(self._vendor, body, self._secret, self._later)
        headers = {name.lower(): value for name, value in headers.items()}
        if how % 4 == 1:  # fuzz the proof itself
            text = body[:2000].decode("latin1").replace("\n", " ").replace("\r", " ")
            headers = {
                name: text if n == how // 4 % max(1, len(headers)) else v for n, (name, v) in enumerate(headers.items())
            }
        elif how % 4 == 2:
            headers = {name: value[: how // 4] + value[how // 4 + 1 :] for name, value in headers.items()}
        token = suffix.strip("/") or None
        if how % 4 == 3 and token:
            token = body[:64].decode("latin1")
        query = {"sid": body[:40].decode("latin1"), "rid": "r"} if how & 4 and self._vendor == "streamrec" else {}
        delivery = self._delivery(
            source="s", body=body, received_at=self._later, headers=headers, query=query, token=token
        )
        event, key, proof = "", "k", b"{}"
        try:
            verified = self.source.verify(delivery)
            event, key, proof = verified.event, verified.dedupe_key, verified.proof
            self.verified += 1
            if len(self.verified_records) < self.save:
                self.verified_records.append(verified)
        except self._rejected:
            self.rejected += 1
            if len(self.verified_records) < self.save:
                self.verified_records.append(
                    self.source.verify_trusted(body, received_at=self._later, proof={"scheme": "import"})
                )
        record = self._record(
            position=1, source="s", vendor=self._vendor, event=event, dedupe_key=key, received_at=self._later,
            origin="webhook", proof=proof, body=body,
        )  # fmt: skip
        self.facts += len(list(self._interpret(record)))
        self.slowest = max(self.slowest, time.perf_counter() - began)
        if self.slowest > SLOW_SECONDS:
            raise TimeoutError(f"{self.slowest:.1f} s")


def seeds(vendor: str) -> list[bytes]:
    """Bodies of the samples, and inputs found earlier."""
    from tests.support.samples import samples

    found = [b"\0" + sample.body for sample in samples() if sample.vendor == vendor]
    return found + [base64.b64decode(each["input"]) for each in earlier_findings() if each["vendor"] == vendor]


def earlier_findings() -> Iterator[dict[str, str]]:
    """Inputs that fuzzing found earlier, from tests/samples/fuzzed.jsonl."""
    path = ROOT / "tests" / "samples" / "fuzzed.jsonl"
    yield from (json.loads(line) for line in path.read_text("utf-8").splitlines()) if path.exists() else ()


VALUES = (
    b"null", b"true", b"-1", b"0", b"1e999", b"9" * 400, b"NaN", b"-9223372036854775809", b'""', b"[]", b"{}", b"[[[[1]]]]",
    b'"\\ud800"', b'"\xff"', b'"9999-99-99T99:99:99Z"', b'"0001-01-01T00:00:00Z"', b"253402300800000", b"1.5", b'{"":{}}',
    b'"' + b"x" * 300 + b'"', b"18446744073709551616", b'"1e5"', b'["a",1,null]', b"-62135596800001", b'"-5"',
)  # fmt: skip


def mutate_sample(corpus: Sequence[bytes], chance: random.Random) -> bytes:
    """A sample with changed values, with pieces removed, doubled or from another sample, and with changed bytes."""
    data = bytearray(chance.choice(corpus))
    if chance.random() < 0.3 and data:
        data[0] = chance.randrange(256)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        what = chance.randrange(6)
        colons = [n for n, byte in enumerate(data) if byte == 58] if what < 3 else []
        if colons:
            start = chance.choice(colons) + 1
            end = min((n for n in (data.find(b",", start), data.find(b"}", start)) if n > 0), default=len(data))
            if what == 2:
                other = chance.choice(corpus)
                at = chance.randrange(len(other))
                data[start:end] = other[at : at + end - start]
            else:
                data[start:end] = chance.choice(VALUES)
        elif data and what == 3:
            data[chance.randrange(len(data))] = chance.randrange(256)
        elif data and what == 4:
            at = chance.randrange(len(data))
            del data[at : at + chance.choice((1, 2, 8, 40))]
        elif data:
            at = chance.randrange(len(data))
            data[at:at] = data[at : at + chance.choice((1, 8, 80))]
    return bytes(data)


class Found(NamedTuple):
    """An input and the error it caused."""

    vendor: str
    data: bytes
    error: str


async def project(verified: Sequence[Verified], folder: Path, chance: random.Random) -> list[str]:
    """Save, rebuild and compare. Returns what differs, and what was set aside."""
    from tests.support.logs import opened
    from tracker.log.sqlite.log import SqliteLog
    from tracker.projector import rebuild
    from tracker.projector.projector import Projector, compare_views
    from tracker.server import stores
    from tracker.views.sqlite.views import SqliteViews

    path = folder / "log.db"
    await SqliteLog.create(path)
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(opened(path))
        for start in range(0, len(verified), 500):
            await log.append_all(verified[start : start + 500])
        head = await log.head()
        await SqliteViews.create(folder / "live.db")
        views = [await SqliteViews.open(folder / "live.db", writable=True)]
        stack.push_async_callback(views[0].close)
        live = Projector(log, views[0])
        while live.position < head:
            await live.catch_up(until=min(head, live.position + chance.choice((1, 3, 20, 200))))
        rebuild.MIN_PART_RECORDS, rebuild.HEAD_START_RECORDS = 1, 0
        context = rebuild.RebuildContext(functools.partial(opened, path), stores.new_views, {})
        for name, jobs in (("rebuilt.db", 1), ("parts.db", 3)):
            await rebuild.build_views(log, folder / name, context, jobs=jobs)
            views.append(await SqliteViews.open(folder / name, writable=False))
            stack.push_async_callback(views[-1].close)
        found = [f"set aside: record {each.position}: {each.reason}" for each in await views[0].set_aside(limit=20)]
        for other in views[1:]:
            found += await compare_views(views[0], other)
        return found


def run_mutations(vendor: str, inputs: int, seed: int, save: int = 0) -> tuple[Target, list[Found]]:
    """Run random mutations, without coverage guidance."""
    target, corpus, chance = Target(vendor, save), seeds(vendor), random.Random(seed)
    found: dict[str, Found] = {}
    for n in range(inputs):
        data = corpus[n] if n < len(corpus) else mutate_sample(corpus, chance)
        try:
            target.one(data)
        except Exception as error:
            found.setdefault(f"{type(error).__name__}: {error}"[:80], Found(vendor, data, repr(error)[:200]))
    if save:
        with tempfile.TemporaryDirectory() as folder:
            wrong = asyncio.run(project(target.verified_records, Path(folder), chance))
        found |= {each: Found(vendor, b"", each[:2_000]) for each in wrong}
    return target, list(found.values())


def fuzz_guided(vendor: str, inputs: int, folder: Path) -> None:
    """Run atheris; it never returns, so this needs a process of its own."""
    import atheris

    with atheris.instrument_imports(include=["tracker.sources", "tracker.domain"]):
        target = Target(vendor)
    from tracker.demo.calls import VENDORS as _  # noqa: F401

    (folder / "corpus").mkdir()
    for n, data in enumerate(seeds(vendor)):
        (folder / "corpus" / str(n)).write_bytes(data)
    warnings.simplefilter("ignore")
    atheris.Setup(
        ["fuzz", str(folder / "corpus"), f"-runs={inputs}", f"-artifact_prefix={folder}/", "-max_len=20000", "-timeout=5",
         "-print_final_stats=1", "-rss_limit_mb=1500", "-verbosity=0"],
        target.one,
    )  # fmt: skip
    atheris.Fuzz()


def run_guided(vendor: str, inputs: int) -> tuple[str, list[Found]]:
    """Run atheris in a child process; returns (its statistics, findings)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "bench.faults.fuzz",
            "--guided",
            folder,
            "--vendors",
            vendor,
            "--inputs",
            str(inputs),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        found = [
            Found(vendor, path.read_bytes(), done.stderr[-1500:])
            for path in Path(folder).iterdir() if path.name.startswith(("crash", "timeout", "oom", "slow"))
        ]  # fmt: skip
        stats = dict(line[6:].split(":", 1) for line in done.stderr.splitlines() if line.startswith("stat::"))
        if done.returncode and not found:
            found.append(Found(vendor, b"", done.stderr[-1500:]))
        return " ".join(
            f"{k}={v.strip()}"
            for k, v in stats.items()
            if k in {"number_of_executed_units", "peak_rss_mb", "new_units_added"}
        ), found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for all vendors together")
    parser.add_argument("--vendors", default=",".join(VENDORS))
    parser.add_argument("--mutations", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=int, default=4_000, help="records of each vendor to project; 0: none")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--guided", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.smoke:
        options.inputs, options.save, options.mutations = 100 * len(VENDORS), 20, True
    warnings.simplefilter("ignore")
    vendors = options.vendors.split(",")
    if options.guided:
        fuzz_guided(vendors[0], options.inputs, options.guided)
        return 0
    try:
        import atheris as _  # noqa: F401

        has_atheris = not options.mutations
    except ImportError:
        has_atheris = False
    each, every = options.inputs // len(vendors), []
    print(
        f"{'vendor':15}{'inputs':>9}{'verified':>10}{'rejected':>10}{'facts':>10}{'slowest ms':>12}{'MiB':>6}{'seconds':>9}{'found':>7}"
    )
    for vendor in vendors:
        began = time.perf_counter()
        if has_atheris:
            stats, found = run_guided(vendor, each)
            print(f"{vendor:15}{each:9}  {stats:56}{time.perf_counter() - began:9.0f}{len(found):7}", flush=True)
        else:
            target, found = run_mutations(vendor, each, options.seed, options.save)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(
                f"{vendor:15}{each:9}{target.verified:10}{target.rejected:10}{target.facts:10}{target.slowest * 1000:12.0f}{peak:6}"
                f"{time.perf_counter() - began:9.0f}{len(found):7}", flush=True,
            )  # fmt: skip
        every += found
    for one in every:
        print(one.vendor, one.error)
    if options.keep and every:
        with options.keep.open("a", encoding="utf-8") as file:
            for one in every:
                file.write(json.dumps({"vendor": one.vendor, "input": base64.b64encode(one.data).decode()}) + "\n")
    return 1 if every else 0


if __name__ == "__main__":
    report.run(main)

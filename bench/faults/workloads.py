"""Workloads that get killed, and their checks: for `python -m bench.faults.write_steps` and `python -m bench.faults.syscalls`.

prepare   makes a folder with config.toml and the files that were there before
run       does the work, in a process that gets killed; reports what was acknowledged
check     after the kill: finds what is wrong, and repeats the work to its end, as a sender or an operator would
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.unit.log.sqlite.test_dictionaries import deliveries, rows, trained
from tests.flows.privacy.test_erasure import sealed_config
from tests.support.server import READ_KEY, SECRETS
from tracker.cli.erase import erase
from tracker.cli.import_files import import_files
from tracker.cli.init import init
from tracker.cli.rebuild import check, rebuild
from tracker.cli.verify import verify as verify_log
from tracker.server import stores
from tracker.config.load import Config, load
from tracker.domain.deliveries import Verified
from tracker.domain.deliveries import TRACKER
from tracker.demo.show import SOURCES, config_text
from tracker.demo.calls import VENDORS, whole_call
from tracker.privacy.erasure import Selection
from tracker.errors import LogMissing, ViewsMissing
from tracker.log.sqlite import dictionaries
from tracker.log.contract import Log
from tracker.log.record_compression import MAGIC
from tracker.log.sqlite.log import SqliteLog

START = 1_700_000_000_000_000


class Workload(NamedTuple):
    """Work that gets killed. `check` is given what was acknowledged before the kill, and returns what is wrong."""

    name: str
    prepare: Callable[[Path], Awaitable[None]]
    run: Callable[[Path, Callable[[str, int], None]], Awaitable[None]]
    check: Callable[[Path, dict[str, int]], Awaitable[list[str]]]


def delivery(n: int) -> Verified:
    """The n-th delivery of a source."""
    body = json.dumps({"event": "room_started", "id": f"EV_{n}", "text": "x" * 200}).encode()
    return Verified(
        source="lk", vendor="livekit", event="room_started", dedupe_key=f"k{n}", received_at=START + n,
        origin="webhook", proof=b'{"iss":"k"}', body=body,
    )  # fmt: skip


def config_of(folder: Path) -> Config:
    """The configuration of that folder."""
    return load(folder / "config.toml", {})


def write_config(folder: Path, *, sealed: bool) -> None:
    """Write config.toml with the demo's five sources; `sealed` encrypts records."""
    text = sealed_config(folder) if sealed else config_text(folder, SECRETS, READ_KEY, 0)
    (folder / "config.toml").write_text(text, "utf-8")


BEFORE, BATCHES, WIDE = 253, 4, 3


async def prepare_append(folder: Path, *, sealed: bool = False) -> None:
    """A log with 253 records: the next batches fill a tile of its tree."""
    write_config(folder, sealed=sealed)
    await init(config_of(folder))
    log = await stores.open_log(config_of(folder))
    await log.append_all([delivery(n) for n in range(BEFORE)])
    await log.close()


async def run_append(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """Open the log, append batches with one repeat each, close it."""
    log = await stores.open_log(config_of(folder))

    async def one(n: int) -> None:
        acknowledge(f"k{n}", (await log.append(delivery(n))).position)

    for batch in range(BATCHES):
        first = BEFORE + batch * WIDE
        await asyncio.gather(*(one(n) for n in range(first, first + WIDE)), one(first))
    await log.close()


async def check_append(folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """Everything acknowledged is there, once; then everything is sent again."""
    config = config_of(folder)
    log = await stores.open_log(config)
    faults = await check_and_resend(log, [delivery(n) for n in range(BEFORE + BATCHES * WIDE)], acknowledged)
    await log.close()
    return faults + await verify(config, BEFORE + BATCHES * WIDE)


async def check_and_resend(log: Log, sent: list[Verified], acknowledged: dict[str, int]) -> list[str]:
    """What is wrong with the records of these deliveries, and with the answers when all of them are sent again."""
    faults: list[str] = []
    records = [record async for chunk in log.read(0) for record in chunk]
    bodies = {each.body: each.dedupe_key for each in sent}
    if [record.position for record in records] != list(range(1, len(records) + 1)):
        faults.append("a gap")
    if len({record.body for record in records}) != len(records):
        faults.append("a record is there twice")
    positions = {bodies[record.body]: record.position for record in records}
    faults += [f"lost: {key} at {at}" for key, at in acknowledged.items() if positions.get(key) != at]
    answers = await log.append_all(sent)
    return faults + [
        f"not the first position: {each.dedupe_key}"
        for each, a in zip(sent, answers, strict=True)
        if a.duplicate != (each.dedupe_key in positions) or (a.duplicate and a.position != positions[each.dedupe_key])
    ]


async def verify(config: Config, count: int | None = None) -> list[str]:
    """What `tracker verify` finds."""

    @contextlib.contextmanager
    def bars(*_: str) -> Any:
        yield lambda *_: None

    found = await verify_log(config, bars)
    faults = [fault.what if hasattr(fault, "what") else str(fault) for fault in found.faults]
    if count is not None and found.records != count:
        faults.append(f"{found.records} records, not {count}")
    return faults


async def prepare_init(folder: Path) -> None:
    """Only config.toml."""
    write_config(folder, sealed=True)


async def run_init(folder: Path, _acknowledge: Callable[[str, int], None]) -> None:
    """Run `tracker init` with encryption."""
    await init(config_of(folder))


async def check_init(folder: Path, _acknowledged: dict[str, int]) -> list[str]:
    """The log is missing or complete; a second init makes what is missing."""
    config = config_of(folder)
    with contextlib.suppress(LogMissing):
        await (await stores.open_log(config)).close()
    try:
        await init(config)
    except Exception as error:
        if "exists already" not in str(error):
            return [f"the second init failed: {error}"]
    return await verify(config, 0)


def write_calls(folder: Path, seeds: range) -> None:
    """Write one JSON Lines file for each vendor and seed."""
    for seed in seeds:
        for vendor in VENDORS:
            lines = [sent.body for sent in whole_call(vendor, START + seed * 3_600_000_000, seed=seed)]
            (folder / f"{SOURCES[vendor]}-{seed}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


async def import_calls(folder: Path, seeds: range) -> int:
    """Import those files; returns how many lines the log has afterwards."""
    lines = 0
    for seed in seeds:
        for vendor in VENDORS:
            path = folder / f"{SOURCES[vendor]}-{seed}.jsonl"
            (report,) = await import_files(config_of(folder), SOURCES[vendor], [path])
            lines += report.new + report.known
    return lines


async def prepare_import(folder: Path) -> None:
    """An empty encrypted log, and files to import."""
    write_config(folder, sealed=True)
    await init(config_of(folder))
    write_calls(folder, range(1))


async def run_import(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """Import all files; acknowledges the lines that the reports count as new or known."""
    acknowledge("lines", await import_calls(folder, range(1)))


async def check_import(folder: Path, _acknowledged: dict[str, int]) -> list[str]:
    """A second import adds the rest; a third adds nothing."""
    config = config_of(folder)
    await import_calls(folder, range(1))
    log = await stores.open_log(config)
    head = await log.head()
    found = [record async for chunk in log.read(0) for record in chunk]
    await log.close()
    bodies = [record.body for record in found]
    faults = [] if len(set(bodies)) == len(bodies) == head else ["a record is there twice"]
    imported = {record.body for record in found if record.source != TRACKER}
    lines = {line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()}
    faults += [] if imported == lines else [f"{len(lines - imported)} lines are missing"]
    await import_calls(folder, range(1))
    return faults + await verify(config, head)


async def prepare_views(folder: Path, *, sealed: bool = False) -> None:
    """A log with calls of all vendors, and views of the first of them."""
    await prepare_import(folder) if sealed else None
    if not sealed:
        write_config(folder, sealed=False)
        await init(config_of(folder))
        write_calls(folder, range(1))
    await import_calls(folder, range(1))
    await rebuild(config_of(folder))
    if not sealed:
        write_calls(folder, range(1, 2))
        await import_calls(folder, range(1, 2))


async def run_rebuild(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """Run `tracker rebuild`."""
    acknowledge("position", (await rebuild(config_of(folder))).position)


async def check_rebuild(folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """The old or the new views are there, complete. Then a rebuild runs to its end and leaves no file behind."""
    config = config_of(folder)
    try:
        checked = await check(config)
    except ViewsMissing:
        return ["the views are missing"]
    faults = checked.differences
    if acknowledged and checked.behind:
        faults.append("the rebuild was acknowledged, but the old views are there")
    await rebuild(config)
    checked = await check(config)
    left = [path.name for path in folder.iterdir() if path.name.startswith("views.db-") and "lock" not in path.name]
    left = [name for name in left if not name.endswith(("-wal", "-shm"))]
    return faults + checked.differences + [f"left behind: {name}" for name in left]


async def prepare_erasing(folder: Path) -> None:
    """An encrypted log with views."""
    await prepare_views(folder, sealed=True)


async def run_erasing(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """Erase everything of one source."""
    selection = Selection(why="retention", before=START * 2, sources=("lk",))
    await erase(config_of(folder), [selection])
    acknowledge("erased", 1)


async def check_erasing(folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """The source is erased or not, and nothing else is lost; a second erasure erases all of it, and only it."""
    config = config_of(folder)

    async def erased() -> dict[str, set[bool]]:
        found: dict[str, set[bool]] = {}
        async with stores.reading_log(config) as log:
            async for chunk in log.read(0):
                for record in chunk:
                    found.setdefault(record.source, set()).add(record.erased_by is not None)
        return found

    faults = (
        ["the erasure was acknowledged, but records are readable"]
        if acknowledged and (await erased())["lk"] != {True}
        else []
    )
    selection = Selection(why="retention", before=START * 2, sources=("lk",))
    await erase(config, [selection])
    found = await erased()
    faults += [f"{source}: {sorted(each)}" for source, each in found.items() if each != {source == "lk"}]
    await rebuild(config)
    return faults + await verify(config) + (await check(config)).differences


async def prepare_sealed(folder: Path) -> None:
    """Like `append`, encrypted."""
    await prepare_append(folder, sealed=True)


UNTRAINED, MEANWHILE, TRAINED = dictionaries.SAMPLE - 2, 8, 2
"""Records before the run; during the training, which the second of them starts; and after it."""


async def prepare_train(folder: Path) -> None:
    """A log whose source needs two more records to get its dictionary."""
    write_config(folder, sealed=False)
    await init(config_of(folder))
    log = await stores.open_log(config_of(folder))
    await log.append_all(deliveries(UNTRAINED))
    await log.close()


async def run_train(folder: Path, acknowledge: Callable[[str, int], None]) -> None:
    """Append while the dictionary is trained, then append some records that are compressed with it."""
    log = await SqliteLog.open(config_of(folder).log.path)
    for n, each in enumerate(deliveries(UNTRAINED + MEANWHILE + TRAINED)[UNTRAINED:]):
        if n == MEANWHILE:
            await trained(log)
        acknowledge(each.dedupe_key, (await log.append(each)).position)
    await log.close()


async def check_trained(folder: Path, acknowledged: dict[str, int]) -> list[str]:
    """Like `append`; and the dictionary is there, or the next records train it."""
    config = config_of(folder)
    sent = deliveries(UNTRAINED + MEANWHILE + TRAINED)
    log = await SqliteLog.open(config.log.path)
    faults = await check_and_resend(log, sent, acknowledged)
    for first in (10_000, 20_000):
        await log.append_all(deliveries(1, first=first))
        await trained(log)
    await log.close()
    if rows(config.log.path, "SELECT count(*) FROM dictionaries") != [(1,)]:
        faults.append("there is not exactly one dictionary")
    if rows(config.log.path, "SELECT substr(body, 1, 4) FROM records ORDER BY position DESC LIMIT 1") != [(MAGIC,)]:
        faults.append("the last record is not compressed")
    return faults + await verify(config, len(sent) + 2)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("init", prepare_init, run_init, check_init),
        Workload("append", prepare_append, run_append, check_append),
        Workload("sealed", prepare_sealed, run_append, check_append),
        Workload("train", prepare_train, run_train, check_trained),
        Workload("import", prepare_import, run_import, check_import),
        Workload("rebuild", prepare_views, run_rebuild, check_rebuild),
        Workload("erase", prepare_erasing, run_erasing, check_erasing),
    )
}

"""The guides quote what a running Tracker says, and the backups they describe are good logs."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.paths import DOCS, ROOT
from tracker import errors
from tracker.domain.deliveries import Verified
from tracker.log.sqlite.log import SqliteLog
from tracker.server.metrics import Metrics

METRICS = (DOCS / "reference" / "metrics.md").read_text("utf-8")
MONITOR = (DOCS / "guides" / "monitor.md").read_text("utf-8")
TROUBLESHOOT = (DOCS / "guides" / "troubleshoot.md").read_text("utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^#{2,3} ", TROUBLESHOOT, flags=re.MULTILINE)}
EVERYTHING = "\n".join(page.read_text("utf-8") for page in sorted(DOCS.rglob("*.md")))

NOT_METRICS = {"tracker_session"}
"""Words of the same form that name something else: the cookie of the pages."""


def metric_names() -> set[str]:
    text = Metrics(lambda: 0).render()[0].decode()
    return {name for name in re.findall(r"^# TYPE (\w+)", text, re.MULTILINE) if not name.endswith("_created")}


def test_the_page_of_metrics_has_one_row_for_each_metric() -> None:
    assert set(re.findall(r"^\| `(tracker_\w+)`", METRICS, re.MULTILINE)) == metric_names()


def test_every_metric_named_anywhere_exists() -> None:
    assert set(re.findall(r"\btracker_\w+", EVERYTHING)) - NOT_METRICS <= metric_names()


@pytest.mark.parametrize(
    "reason",
    [
        "the log did not answer within",
        "KiB are free on the disk of the log: free some space",
        " s behind the log (position ",
    ],
)
def test_every_reason_of_readyz_is_explained(reason: str) -> None:
    code = "".join((ROOT / "tracker" / name).read_text("utf-8") for name in ("server/server.py", "server/read_side.py"))
    assert reason in code
    assert reason in MONITOR


def test_every_refusal_is_listed_as_an_outcome() -> None:
    row = next(line for line in METRICS.splitlines() if line.startswith("| `tracker_deliveries_total`"))
    leaves = [*errors.DeliveryRejected.__subclasses__(), errors.LogUnavailable, errors.LogBusy]
    for leaf in leaves:
        assert f"`{re.sub(r'(?<!^)(?=[A-Z])', '_', leaf.__name__).lower()}`" in row


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("log/sqlite/file.py", "there is no log at "),
        ("log/file_lock.py", " is already served by "),
        ("log/sqlite/file.py", " is not a log of Tracker"),
        ("log/sqlite/file.py", " is not a SQLite database"),
        ("server/server.py", " is not a loopback address, but there are no read keys"),
        ("server/server.py", "cannot listen on "),
        ("log/jetstream/stream.py", " cannot be reached"),
        ("log/jetstream/stream.py", "there is no stream "),
        ("log/jetstream/validation.py", " would not keep a log: "),
        ("log/jetstream/monitoring.py", "NATS acknowledges before it syncs"),
        ("log/jetstream/validation.py", "NATS accepts messages of "),
        ("log/jetstream/validation.py", " ends at message "),
        ("log/jetstream/validation.py", " holds the log "),
    ],
)
def test_refusals_to_start_are_quoted_as_they_are(file: str, words: str) -> None:
    assert words in (ROOT / "tracker" / file).read_text("utf-8")
    assert words in SECTIONS["`serve` refuses to start"]


@pytest.mark.parametrize("means", ["vacuum into", "backup"])
async def test_a_copy_made_while_the_log_is_open_holds_every_record(means: str, tmp_path: Path) -> None:
    path, copy = tmp_path / "log.db", tmp_path / "copy.db"
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    await log.append_all([_verified(n) for n in range(50)])
    with closing(sqlite3.connect(path)) as held:
        if means == "backup":
            with closing(sqlite3.connect(copy)) as target:
                held.backup(target)
        else:
            held.execute("VACUUM INTO ?", (str(copy),))
    await log.append(_verified(50))
    await log.close()
    restored = await SqliteLog.open(copy)
    assert await restored.head() == 50
    assert (await restored.append(_verified(7))).position == 8
    assert (await restored.append(_verified(99))).position == 51
    await restored.close()


async def test_a_clean_stop_leaves_no_wal(tmp_path: Path) -> None:
    await SqliteLog.create(tmp_path / "log.db")
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append(_verified(1))
    await log.close()
    assert not (tmp_path / "log.db-wal").exists()


def _verified(n: int) -> Verified:
    return Verified(
        source="lk", vendor="livekit", event="room_started", dedupe_key=f"key-{n}", received_at=n, origin="webhook",
        proof=b"{}", body=b"{}",
    )  # fmt: skip

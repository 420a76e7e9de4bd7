"""A small file cannot fill the memory of who verifies it: each of these unpacks to 30 MB, made to need gigabytes."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.support import bundles
from tests.support.bundles import configured, filled, packed, session_of, unpacked
from tracker.cli.erase import erase, select_person

PEAK_MB = 400
"""A whole Python and the longest line (32 MiB), a few times. Verifying a small bundle takes 65 MB."""
PADDING = random.Random(1).randbytes(90_000)
"""A zip may unpack to 16 MiB and 200 times its size. This makes room for more."""
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a bundle with an erasure."""
    config = configured(tmp_path_factory.mktemp("log") / "log")
    asyncio.run(filled(config, ["livekit"]))
    asyncio.run(erase(config, [asyncio.run(select_person(config, "user-alice"))]))
    session = asyncio.run(session_of(config, "livekit"))
    return unpacked(asyncio.run(bundles.bundle(config, session, config.path.parent / "it.zip")))


def line(files: Files, n: int, body: str) -> bytes:
    """The record in line n with another body."""
    fields = msgspec.json.decode(files["records.jsonl"].splitlines()[n])
    return msgspec.json.encode(fields | {"body_text": body}) + b"\n"


BOMBS: dict[str, Callable[[Files], Files]] = {
    "empty lines": lambda _: {"records.jsonl": b"\n" * 33_000_000},
    "small records": lambda _: {"records.jsonl": b"{}\n" * 11_000_000},
    "one endless line": lambda _: {"records.jsonl": b"x" * 33_000_000},
    "a body of empty lists": lambda files: {"records.jsonl": line(files, 1, "[" + "[]," * 10_000_000 + "[]]")},
    "an erasure of everything": lambda files: {
        "records.jsonl": line(
            files, -1, '{"why":"","at":1,"erased":[' + '{"position":1,"facts":[{}]},' * 1_000_000 + "{}]}"
        )
    },
    "proofs without end": lambda _: {
        "proofs.json": b'{"size":1,"root":"","inclusion":[' + b'{"position":1,"hashes":[]},' * 1_200_000 + b"{}]}"
    },
    "a proof without end": lambda _: {
        "proofs.json": b'{"size":1,"root":"","inclusion":[{"position":1,"hashes":[' + b'"",' * 10_000_000 + b'""]}]}'
    },
    "a timeline of empty objects": lambda _: {"timeline.json": b'{"timeline":[' + b"{}," * 11_000_000 + b"{}]}"},
    "a session of anomalies": lambda _: {
        "timeline.json": b'{"session":{"anomalies":[' + b'{"kind":"x"},' * 2_400_000 + b"{}]}}"
    },
    "rows of empty objects": lambda _: {
        "timeline.json": b'{"session":{},\n"timeline":[\n' + b'{"detail":' + b"[]," * 10_000_000 + b"[]}]}\n"
    },
    "a long README": lambda _: {"README.html": PADDING + b" " * 33_000_000},
}


MEASURED = """
import sys
from pathlib import Path
from tracker.cli.main import main

code = main(sys.argv[1:])
sys.stderr.write(Path("/proc/self/status").read_text())
sys.exit(code)
"""


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_is_a_finding_and_needs_little_memory(what: str, files: Files, tmp_path: Path) -> None:
    bomb = {**files, "README.html": PADDING, **BOMBS[what](files)}
    path = packed(bomb, tmp_path / "bomb.zip")
    assert path.stat().st_size < 400_000
    assert sum(map(len, bomb.values())) > 28_000_000
    command = [sys.executable, "-c", MEASURED, "verify", str(path), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = msgspec.json.decode(done.stdout)
    assert done.returncode == 1, found
    # Refused for what it holds, and not because it unpacks to more than any bundle.
    assert {check["name"]: check["outcome"] for check in found["checks"]}["file"] == "ok"
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB", done.stderr, re.MULTILINE)
    assert int(peak) < PEAK_MB * 1024, f"{int(peak) // 1024} MB"

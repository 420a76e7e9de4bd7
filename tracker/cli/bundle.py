"""The commands about evidence bundles: `export --evidence` and `verify BUNDLE`. Exit 1 when something is wrong."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tracker.cli import output as printing
from tracker.cli import desk_bundle
from tracker.evidence.bundle.verify import BundleVerification, Check
from tracker.config.load import Config
from tracker.errors import ParameterInvalid

MARKS = {"ok": "ok", "failed": "FAILED", "not checked": "not checked"}


def make(arguments: argparse.Namespace) -> int:
    """Write a bundle, and verify what was written: evidence that does not hold is not handed out unnoticed."""
    config: Config = arguments.config
    for name in ("id", "source", "after"):
        if getattr(arguments, name):
            raise ParameterInvalid("--evidence", "names the session by itself: leave ID, --source and --after out")
    path = asyncio.run(desk_bundle.make(config, arguments.evidence, arguments.out))
    found = asyncio.run(_verified(path, config))
    if found.has_failed:
        printing.print_error(f"wrote {path}, but it does not hold:")
        _show(found)
        return 1
    printing.print_line(f"wrote {path}: {found.records} records; check it anywhere with `tracker verify {path}`")
    for check in found.checks:
        if check.outcome == "not checked" and check.name in {"checkpoint", "timeline"}:
            printing.print_error(printing.printable(check.about))
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Verify a bundle and show every check; 1 when one failed."""
    for name in ("views", "proofs"):
        if getattr(arguments, name):
            raise ParameterInvalid(f"--{name}", "goes with a whole log; of a bundle everything is checked anyway")
    found = asyncio.run(_verified(arguments.bundle, arguments.config, arguments.key, arguments.checkpoints))
    if arguments.json:
        printing.print_json(found)
    else:
        _show(found)
    return 1 if found.has_failed else 0


async def _verified(
    bundle: Path, config: Config | None, keys: tuple[str, ...] = (), files: tuple[Path, ...] = ()
) -> BundleVerification:
    with printing.progress("verify", "records") as bar:
        return await desk_bundle.verify(bundle, config, keys=keys, files=files, progress=bar)


def _show(found: BundleVerification) -> None:
    rows = [(check.name, MARKS[check.outcome], _told(check)) for check in found.checks]
    printing.print_line(printing.printable(f"{found.bundle}: {found.session or 'no session can be read'}"))
    printing.table("Checks", ("check", "result", "what"), rows)
    if found.has_failed:
        printing.print_line("do not rely on this bundle: something in it was changed, or it was damaged on its way")
    else:
        open_ones = [check.name for check in found.checks if check.outcome == "not checked"]
        left = f"; not checked: {', '.join(open_ones)}" if open_ones else ""
        printing.print_line(f"everything that was checked holds{left}")


def _told(check: Check) -> str:
    return "; ".join(check.problems) or check.about

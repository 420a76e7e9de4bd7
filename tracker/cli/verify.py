"""`tracker verify`: verifies the whole log, or an evidence bundle.

Exit 1 when something is wrong; 3 when nothing is, but a part of a bundle was not checked.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tracker.cli import bundle, output, rebuild
from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_json, print_line, printable
from tracker.config.load import Config
from tracker.errors import CheckpointUnwritten, ParameterInvalid, ViewsError
from tracker.evidence.bundle.verify import SUBJECTS
from tracker.evidence.checkpoint_file import read_shipped
from tracker.evidence.verify_log import (
    MAX_FAULTS,
    Fault,
    Progress,
    ShippedFile,
    Verification,
    check_cosignatures,
    verify_log,
)
from tracker.evidence.sources_in_force import SourcesInForce
from tracker.evidence.verify_records import check_erasures, check_proofs
from tracker.log.cluster.divergence import announced_keys
from tracker.log.declaration_records import declaration_history
from tracker.server import signing_keys, stores
from tracker.server.sources import build_sources

UNSIGNED = (
    "; but no checkpoint was ever signed, so this log only agrees with itself: a person who can write its files "
    "could have replaced all of it (`tracker init` creates a key, and `tracker serve` then signs)"
)

ShowProgress = Callable[[str, str], AbstractContextManager[Progress]]
"""Shows the progress of one step, given its title and unit."""


MAX_SCHEMA_PROBLEMS = 5


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    summary = "Verify the whole log: records, tree, every checkpoint; or an evidence bundle."
    parser = add_command(subparsers, "verify", run, summary, as_json=True)
    parser.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE",
        help="an evidence bundle, verified offline; --config is optional then, and gives the sources' secrets",
    )  # fmt: skip
    parser.set_defaults(config=None)
    parser.add_argument(
        "--checkpoints", action="append", default=[], type=Path, metavar="FILE",
        help="a file of checkpoints that was kept elsewhere; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--key", action="append", default=[], metavar="KEY",
        help="a verifier key, or a file that holds one, instead of the configured key; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--allow-unchecked", action="append", default=[], choices=sorted(SUBJECTS), metavar="NAME",
        help=f"of a bundle: exit with 0 although this was not checked ({', '.join(sorted(SUBJECTS))}); may be repeated",
    )  # fmt: skip
    parser.add_argument("--views", action="store_true", help="also check that the views follow from the log")
    parser.add_argument(
        "--proofs", action="store_true", help="also check the vendors' proofs, and the names, against the bodies"
    )


def run(arguments: argparse.Namespace) -> int:
    """Verify the log and print the first faults; 1 when there are any."""
    if arguments.bundle is not None:
        return bundle.run_verify(arguments)
    if arguments.allow_unchecked:
        raise ParameterInvalid("--allow-unchecked", "is for a bundle: name one")
    found = asyncio.run(
        verify(
            arguments.config,
            output.progress,
            keys=arguments.key,
            files=arguments.checkpoints,
            views=arguments.views,
            proofs=arguments.proofs,
        )
    )
    if arguments.json:
        print_json(found)
    else:
        _print_verification(found)
    return 1 if found.faults else 0


async def verify(
    config: Config,
    show_progress: ShowProgress,
    *,
    keys: Sequence[str] = (),
    files: Sequence[Path] = (),
    views: bool = False,
    proofs: bool = False,
    limit: int = MAX_FAULTS,
) -> Verification:
    """Verify the whole log; with `views` also the views, with `proofs` also the vendors' proofs.

    `keys`: verifier keys, or files that hold one, instead of the configured ones. `files`: checkpoints kept elsewhere, in
    addition to those on this machine. Raises `ConfigInvalid`, `ParameterInvalid`, `LogMissing`, `CheckpointUnwritten` (a
    file that cannot be read).
    """
    known = [bundle.read_verifier(text) for text in keys] or signing_keys.verifiers(config)
    shipped = _shipped(config, files)
    async with stores.tree_log(config) as log:
        with show_progress("verify", "records") as report:
            named = await announced_keys(log)
            found = await verify_log(log, known or named, shipped=shipped, progress=report, max_faults=limit)
        schema = await log.schema_problems()
        found.named_key = next((str(each) for each in named if each not in known), None)
        found.is_named_only = found.named_key is not None and not known
        if not found.is_cut_short:
            await check_erasures(log, found)
            await check_cosignatures(log, signing_keys.cosigner_keys(config), found)
        if proofs:
            with show_progress("proofs", "records") as report:
                sources = SourcesInForce(build_sources(config), await declaration_history(log))
                await check_proofs(log, sources, found, progress=report, max_faults=limit)
    if views:
        with show_progress("views", "records") as report:
            await _check_views(config, found, report)
    found.faults = sorted(found.faults, key=lambda fault: (fault.position is None, fault.position or 0))
    found.faults = [*_schema_fault(schema), *found.faults][:limit]
    return found


async def _check_views(config: Config, found: Verification, progress: Progress) -> None:
    try:
        checked = await rebuild.check(config, progress)
    except ViewsError as error:
        found.views = []
        found.faults.append(Fault(None, f"the views cannot be compared: {error}"))
        return
    found.views = checked.differences
    if checked.differences:
        found.faults.append(Fault(None, "the views do not follow from the log: run `tracker rebuild`"))


def _schema_fault(problems: Sequence[str]) -> list[Fault]:
    """One fault for everything that was changed in the schema of the log."""
    if not problems:
        return []
    more = f" and {len(problems) - MAX_SCHEMA_PROBLEMS} more" if len(problems) > MAX_SCHEMA_PROBLEMS else ""
    what = "; ".join(problems[:MAX_SCHEMA_PROBLEMS])
    return [
        Fault(None, f"the schema of the log is not the one that Tracker made: {what}{more}. Deliveries may be missing")
    ]


def _shipped(config: Config, files: Sequence[Path]) -> list[ShippedFile]:
    own = config.evidence.file
    paths = [*files, *([own] if own.exists() and own.resolve() not in {each.resolve() for each in files} else [])]
    try:
        return [ShippedFile(path.name, read_shipped(path)) for path in paths]
    except CheckpointUnwritten as error:
        raise ParameterInvalid("--checkpoints", str(error)) from None


def _print_verification(found: Verification) -> None:
    print_line(f"{found.records} records, root {found.root}")
    print_line(f"{found.checkpoints} checkpoints in the log and {found.shipped} kept elsewhere are verified")
    if found.named_key is not None and (found.is_named_only or found.faults):
        print_line(printable(_unknown_key_hint(found.named_key, is_used=found.is_named_only)))
    for name, size in found.cosigned.items():
        print_line(printable(f"cosigned up to {size} records by {name}"))
    if found.proofs is not None:
        print_line("proofs: " + (", ".join(f"{count} {what}" for what, count in found.proofs.items()) or "none"))
    for fault in found.faults:
        where = "" if fault.position is None else f"position {fault.position}: "
        print_line(printable(where + fault.what))
    for line in found.views or ():
        print_line(printable(line))
    if found.is_cut_short:
        print_line("there may be more faults: the rest of the log was not read")
    if not found.faults:
        doubt = "" if found.checkpoints or found.shipped else UNSIGNED
        doubt = ", if that key is the right one" if found.is_named_only else doubt
        print_line(f"every record is the one that was appended{doubt}")


def _unknown_key_hint(key: str, *, is_used: bool) -> str:
    """What an auditor has to know about a key that only the log names: a forger would have put his own key there."""
    begin = (
        f"signed by {key}, a key that only the log itself names" if is_used else f"the log names an unknown key, {key}"
    )
    return (
        f"{begin}: compare it with the one that the signing node shows at /v1/log/key, then name it with --key, or under "
        f'[evidence]: former_keys = ["{key}"]'
    )

"""The commands about evidence: checkpoint, proof, verify. Exit 1 when something is wrong."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from tracker.cli import output as printing
from tracker.cli import bundle, desk_evidence
from tracker.evidence.verify_log import Verification

Command = Callable[[argparse.Namespace], int]
Add = Callable[..., argparse.ArgumentParser]


def add_to(add: Add, position: Callable[[str], int]) -> None:
    """The options of these commands. `add` makes a command's parser; `position` reads a place in the log."""
    add("checkpoint", checkpoint, "Sign the log as it is now, and print the checkpoint.", as_json=True)
    proof = add("proof", inclusion, "Prove that a record is in the log, or that the log only grew.", as_json=True)
    kinds = proof.add_subparsers(title="proofs", required=True, metavar="KIND")
    one = kinds.add_parser("inclusion", help="that the record at POSITION is in the log")
    one.add_argument("position", type=position, metavar="POSITION")
    one.add_argument(
        "--size", type=position, metavar="N", help="in the tree of N records; default: the newest checkpoint's"
    )
    one.set_defaults(command=inclusion)
    two = kinds.add_parser("consistency", help="that the log of FIRST records is the beginning of that of SECOND")
    two.add_argument("first", type=position, metavar="FIRST")
    two.add_argument("second", type=position, metavar="SECOND", nargs="?", help="default: the newest checkpoint's size")
    two.set_defaults(command=consistency)
    for each in (one, two):
        # Also after the kind; what was said before it stays when it is not said again.
        each.add_argument("--config", default=argparse.SUPPRESS, metavar="FILE")
        each.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    check = add(
        "verify", verify, "Verify the whole log: records, tree, every checkpoint; or an evidence bundle.", as_json=True
    )
    check.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE",
                       help="an evidence bundle: it is verified offline; --config (optional then) names senders' secrets")  # fmt: skip
    check.set_defaults(config=None)
    check.add_argument("--checkpoints", action="append", default=[], type=Path, metavar="FILE",
                       help="a file of checkpoints that was shipped elsewhere; may be repeated")  # fmt: skip
    check.add_argument("--key", action="append", default=[], metavar="KEY",
                       help="a verifier key, or a file of one, instead of the configured key; may be repeated")  # fmt: skip
    check.add_argument("--views", action="store_true", help="also: do the views follow from the log")
    check.add_argument("--proofs", action="store_true", help="also: the vendors' proofs, and names, from the bodies")


def checkpoint(arguments: argparse.Namespace) -> int:
    """Make a checkpoint now and print it; 1 while the log is empty."""
    made = asyncio.run(desk_evidence.checkpoint(arguments.config))
    if made is None:
        printing.print_error("the log is empty: there is nothing to sign")
        return 1
    if arguments.json:
        printing.print_json({"size": made.size, "note": made.note})
    else:
        printing.print_line(made.note.removesuffix("\n"))
    return 0


def inclusion(arguments: argparse.Namespace) -> int:
    """The proof that a record is in the log."""
    return _show(
        asyncio.run(desk_evidence.prove_inclusion(arguments.config, arguments.position, arguments.size)), arguments
    )


def consistency(arguments: argparse.Namespace) -> int:
    """The proof that the log only grew."""
    found = asyncio.run(desk_evidence.prove_consistency(arguments.config, arguments.first, arguments.second))
    return _show(found, arguments)


def verify(arguments: argparse.Namespace) -> int:
    """Verify the log; 1 and the first bad positions when something is wrong."""
    if arguments.bundle is not None:
        return bundle.verify(arguments)
    found = asyncio.run(
        desk_evidence.verify(
            arguments.config,
            printing.progress,
            keys=arguments.key,
            files=arguments.checkpoints,
            views=arguments.views,
            proofs=arguments.proofs,
        )
    )
    if arguments.json:
        printing.print_json(found)
    else:
        _show_verification(found)
    return 1 if found.faults else 0


def _show(proof: msgspec.Struct, arguments: argparse.Namespace) -> int:
    if arguments.json:
        printing.print_json(proof)
        return 0
    told: dict[str, str | int | list[str]] = msgspec.to_builtins(proof)
    for name, value in told.items():
        for each in value if isinstance(value, list) else [value]:
            printing.print_line(f"{'hash' if name == 'hashes' else name:12} {each}")
    return 0


def _show_verification(found: Verification) -> None:
    printing.print_line(f"{found.records} records, root {found.root}")
    printing.print_line(f"{found.checkpoints} kept and {found.shipped} shipped checkpoints hold")
    if found.named_key is not None and (found.is_named_only or found.faults):
        printing.print_line(printing.printable(_about_named(found.named_key, is_used=found.is_named_only)))
    for name, size in found.cosigned.items():
        printing.print_line(printing.printable(f"cosigned up to {size} records by {name}"))
    if found.proofs is not None:
        printing.print_line(
            "proofs: " + (", ".join(f"{count} {what}" for what, count in found.proofs.items()) or "none")
        )
    for fault in found.faults:
        where = "" if fault.position is None else f"position {fault.position}: "
        printing.print_line(printing.printable(where + fault.what))
    for line in found.views or ():
        printing.print_line(printing.printable(line))
    if found.is_cut_short:
        printing.print_line("there may be more: the rest of the log was not read")
    if not found.faults:
        unsure = "" if found.checkpoints else "; nothing was ever signed"
        unsure = ", if that key is the right one" if found.is_named_only else unsure
        printing.print_line(f"every record is the one that was appended{unsure}")


def _about_named(key: str, *, is_used: bool) -> str:
    """What an auditor has to know of a key that came with the log: whoever made another log would have named his."""
    said = "signed by" if is_used else "the log names a key that is not known here,"
    where = "which only the log itself names: compare it with" if is_used else "compare it with"
    return (
        f"{said} {key}, {where} the one that the signing node shows at /v1/log/key, then name it with --key, or under "
        f'[evidence]: former_keys = ["{key}"]'
    )

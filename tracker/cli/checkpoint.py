"""`tracker checkpoint` and `tracker proof`: sign the log, prove a part of it.

A server may run on the same log meanwhile. Only `checkpoint` writes: a signed note, into the log and into the file of
checkpoints.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from tracker.api import evidence
from tracker.cli.arguments import Subparsers, add_command, position
from tracker.cli.output import print_error, print_json, print_line
from tracker.config.load import Config
from tracker.errors import ConfigInvalid
from tracker.evidence.checkpointer import SignedCheckpoint
from tracker.log.contract import Log
from tracker.server import signing_keys, stores
from tracker.server.evidence import build_checkpointer


def add_to(subparsers: Subparsers) -> None:
    """Declare the commands."""
    summary = "Sign the log as it is now, and print the checkpoint."
    add_command(subparsers, "checkpoint", run_checkpoint, summary, as_json=True)
    summary = "Prove that a record is in the log, or that the log only grew."
    proof = add_command(subparsers, "proof", run_inclusion, summary, as_json=True)
    kinds = proof.add_subparsers(title="proofs", required=True, metavar="KIND")
    inclusion = kinds.add_parser("inclusion", help="that the record at POSITION is in the log")
    inclusion.add_argument("position", type=position, metavar="POSITION")
    inclusion.add_argument(
        "--size", type=position, metavar="N", help="in the tree of N records; default: the newest checkpoint's"
    )
    inclusion.set_defaults(command=run_inclusion)
    consistency = kinds.add_parser("consistency", help="that the log of SECOND records begins with that of FIRST")
    consistency.add_argument("first", type=position, metavar="FIRST")
    consistency.add_argument(
        "second", type=position, metavar="SECOND", nargs="?", help="default: the newest checkpoint's size"
    )
    consistency.set_defaults(command=run_consistency)
    for each in (inclusion, consistency):
        # Accepted after the kind, too. Without a value here, one given before the kind stays.
        each.add_argument("--config", default=argparse.SUPPRESS, metavar="FILE")
        each.add_argument("--json", action="store_true", default=argparse.SUPPRESS)


def run_checkpoint(arguments: argparse.Namespace) -> int:
    """Sign a checkpoint now and print it; 1 while the log is empty."""
    signed = asyncio.run(checkpoint(arguments.config))
    if signed is None:
        print_error("the log is empty: there is nothing to sign")
        return 1
    if arguments.json:
        print_json({"size": signed.size, "note": signed.note})
    else:
        print_line(signed.note.removesuffix("\n"))
    return 0


def run_inclusion(arguments: argparse.Namespace) -> int:
    """Print the proof that a record is in the log."""
    return asyncio.run(_prove(arguments, evidence.prove_inclusion, arguments.position, arguments.size))


def run_consistency(arguments: argparse.Namespace) -> int:
    """Print the proof that the log only grew."""
    return asyncio.run(_prove(arguments, evidence.prove_consistency, arguments.first, arguments.second))


async def _prove(
    arguments: argparse.Namespace,
    prove: Callable[[Log, int, int | None], Awaitable[msgspec.Struct]],
    number: int,
    size: int | None,
) -> int:
    async with stores.tree_log(arguments.config) as log:
        proof = await prove(log, number, size)
    if arguments.json:
        print_json(proof)
        return 0
    fields: dict[str, str | int | list[str]] = msgspec.to_builtins(proof)
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            print_line(f"{'hash' if name == 'hashes' else name:12} {each}")
    return 0


async def checkpoint(config: Config) -> SignedCheckpoint | None:
    """Sign the log as it is now; the newest checkpoint when the log has not grown, None while it is empty.

    Raises `ConfigInvalid` without a key, `EvidenceError` (nothing was signed), `LogError`.
    """
    signer = signing_keys.signer(config)
    if signing_keys.cosigner(config) is not None:
        raise ConfigInvalid("jetstream.signs: this node cosigns: run `tracker checkpoint` on the node that signs")
    if signer is None:
        raise ConfigInvalid(
            f"evidence.key_file: there is no key at {config.evidence.key_file}: `tracker init` creates it"
        )
    async with stores.copy_source(config) as log:
        return await build_checkpointer(config, log, signer).sign()

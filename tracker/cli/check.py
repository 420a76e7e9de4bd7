"""`tracker check`: validates config.toml, and looks whether a server could start with it. It starts and changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_json, print_table
from tracker.config.load import Config
from tracker.errors import TrackerError, ViewsOutdated
from tracker.log.declaration_records import declaration_history
from tracker.server import cluster_stores, declarations, signing_keys, stores
from tracker.server.sources import secret_warnings

Outcome = Literal["ok", "note", "problem"]

LOW_SPACE = 512 * 1024 * 1024
"""Free bytes. With less, a rebuild of the views or a busy day may fill the disk."""


class CheckResult(msgspec.Struct, frozen=True):
    """One thing that was looked at. A `note` does not keep a server from starting."""

    name: str
    outcome: Outcome
    detail: str


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    add_command(subparsers, "check", run, "Check config.toml, and whether a server could start with it.", as_json=True)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 where something keeps a server from starting or from recording."""
    results = asyncio.run(check(arguments.config))
    if arguments.json:
        print_json([msgspec.to_builtins(each) for each in results])
    else:
        print_table(
            "Checks", ("check", "outcome", "detail"), [(each.name, each.outcome, each.detail) for each in results]
        )
    return int(any(each.outcome == "problem" for each in results))


async def check(config: Config) -> list[CheckResult]:
    """Look at everything that a server needs. Nothing is created or changed."""
    return [
        CheckResult("config", "ok", str(config.path)),
        *_sources(config),
        _access(config),
        await _result("log", _log, config),
        await _result("signing key", _signing_key, config),
        await _result("views", _views, config),
        *_folders(config),
        *([await _result("cluster", _cluster, config)] if config.log.engine == "jetstream" else []),
        _address(config),
    ]


async def _result(name: str, look: Callable[[Config], Awaitable[tuple[Outcome, str]]], config: Config) -> CheckResult:
    try:
        return CheckResult(name, *await look(config))
    except TrackerError as error:
        return CheckResult(name, "problem", str(error))


def _sources(config: Config) -> list[CheckResult]:
    if not config.sources:
        return [CheckResult("sources", "note", "there are none, so that no delivery is accepted: add [[sources]]")]
    warnings = secret_warnings(config)
    return [CheckResult(f"source {name}", "note", why) for name, why in warnings.items()] or [
        CheckResult("sources", "ok", ", ".join(f"{source.name} ({source.vendor})" for source in config.sources))
    ]


def _access(config: Config) -> CheckResult:
    if config.access.keys:
        return CheckResult("access", "ok", f"read keys: {', '.join(key.id for key in config.access.keys)}")
    return CheckResult(
        "access", "note", "there are no read keys: only this machine can read, by the link that `tracker serve` prints"
    )


async def _log(config: Config) -> tuple[Outcome, str]:
    log = await stores.open_followed_log(config)
    try:
        head = await log.head()
        await declarations.missing_declarations(config, log, await declaration_history(log))
    finally:
        await log.close()
    return "ok", f"{config.log.path}: {head:,} records" + (", encrypted" if config.sealing.masters else "")


async def _signing_key(config: Config) -> tuple[Outcome, str]:
    keys = signing_keys.verifiers(config)
    if not keys:
        return (
            "note",
            f"there is none at {config.evidence.key_file}, so that no checkpoints are signed: run `tracker init`",
        )
    return "ok", str(config.evidence.key_file)


async def _views(config: Config) -> tuple[Outcome, str]:
    if not config.views_path.exists():
        return "note", f"{config.views_path} does not exist yet: the server builds it from the log"
    try:
        async with stores.reading_views(config) as views:
            return "ok", f"{config.views_path}: up to position {await views.projected_position():,}"
    except ViewsOutdated:
        return "note", f"{config.views_path} is of another version: the server builds it again from the log"


def _folders(config: Config) -> list[CheckResult]:
    found: list[CheckResult] = []
    for name, folder in (
        ("folder of the log", config.log.path.parent),
        ("folder of the views", config.views_path.parent),
    ):
        if not folder.is_dir():
            found.append(CheckResult(name, "problem", f"{folder} does not exist: create it, or correct the path"))
        elif not os.access(folder, os.W_OK):
            found.append(
                CheckResult(name, "problem", f"{folder} cannot be written by this user: change its owner or rights")
            )
        else:
            found.append(_space(name, folder))
    return found


def _space(name: str, folder: Path) -> CheckResult:
    free = shutil.disk_usage(folder).free
    shown = f"{folder}: {free / 2**30:,.1f} GiB free"
    return CheckResult(name, "ok", shown) if free > LOW_SPACE else CheckResult(name, "problem", f"{shown}: make room")


async def _cluster(config: Config) -> tuple[Outcome, str]:
    log = await cluster_stores.open_log(config)
    try:
        return "ok", f"stream {config.jetstream.stream}: this node is at position {await log.head():,}"
    finally:
        await log.close()


def _address(config: Config) -> CheckResult:
    shown = f"{config.server.host}:{config.server.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.server.host.strip("[]"), config.server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        why = error.strerror or str(error)
        return CheckResult("address", "note", f"{shown} cannot be used now ({why}): a server may be running there")
    return CheckResult("address", "ok", shown)

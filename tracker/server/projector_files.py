"""Two small files beside the views, by which the projector's process and the server learn of each other.

    <views>-projector   the projector writes what only it knows; the server shows it in `/metrics` and `/readyz`
    <views>-damage      a reader of damaged views names the file; the projector moves it aside

Stations look at stores (law 3): neither process calls the other. Losing either file loses a count or a second.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from tracker.views.sqlite.file import Inode

STATUS_SUFFIX = "-projector"
DAMAGE_SUFFIX = "-damage"


class ProjectorStatus(msgspec.Struct, frozen=True):
    """What the projector reports. `outcomes`: source → {"unreadable" or "unknown_event": records since the server started}."""

    outcomes: dict[str, dict[str, int]] = {}
    set_aside: int = 0
    was_damaged: bool = False
    """Whether the views were damaged and have not caught up since."""


class DamageReport(NamedTuple):
    """A views file in which damage was found, and what was found."""

    inode: Inode
    reason: str


def read_status(views: Path) -> ProjectorStatus:
    """The projector's status; an empty one where there is none."""
    try:
        return msgspec.json.decode(_beside(views, STATUS_SUFFIX).read_bytes(), type=ProjectorStatus)
    except (OSError, msgspec.DecodeError):
        return ProjectorStatus()


def write_status(views: Path, status: ProjectorStatus) -> None:
    """Save the projector's status. A full disk is no reason to stop."""
    _write(_beside(views, STATUS_SUFFIX), msgspec.json.encode(status))


def forget_status(views: Path) -> None:
    """Remove the status: counts begin again."""
    with contextlib.suppress(OSError):
        _beside(views, STATUS_SUFFIX).unlink(missing_ok=True)


def report_damage(views: Path, inode: Inode, reason: str) -> None:
    """Tell the projector that this file is damaged."""
    _write(_beside(views, DAMAGE_SUFFIX), msgspec.json.encode(DamageReport(inode, reason)))


def take_damage_report(views: Path) -> DamageReport | None:
    """The last report, which is removed; None where there is none."""
    path = _beside(views, DAMAGE_SUFFIX)
    try:
        report = msgspec.json.decode(path.read_bytes(), type=DamageReport)
    except (OSError, msgspec.DecodeError):
        report = None
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return report


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.new")
    with contextlib.suppress(OSError):
        draft.write_bytes(content)
        os.replace(draft, path)


def _beside(views: Path, suffix: str) -> Path:
    return views.with_name(views.name + suffix)

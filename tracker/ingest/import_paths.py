"""Which files an import reads, and in which order: those of a folder by their names, CDR files oldest run first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tracker.sources.contract import LogFiles

_READ = re.compile(r"\.(?:log|jsonl|ndjson|json)(?:[.-](?:\d[\dTZ_.:+-]*|old|prev))*(?:\.gz)?$", re.IGNORECASE)
"""Log files, JSON Lines and JSON, also rotated (`.log.1`, `.log-20240501`, `.log.2024-05-01.gz`, `.log.old`)."""
_ROTATION = re.compile(r"\.log[.-](\d[\d_.:TZ-]*?)(?:\.gz)?$", re.IGNORECASE)
_PACKED = re.compile(r"\.(?:zst|bz2|xz|zip|tar|tgz|7z|lz4)$", re.IGNORECASE)
_LONGEST_NUMBER = 4
"""Digits of a rotation's number; longer ones are dates."""

LeftOut = list[tuple[Path, str]]
"""(path, why it is not read)"""


def paths_to_import(paths: Iterable[Path], log_files: LogFiles | None) -> tuple[list[Path], LeftOut]:
    """The files to read, in order, and what is left out of the folders among `paths`.

    A folder that cannot be listed or holds nothing to read stays among the files, so that it is reported.
    """
    listed: list[Path] = []
    left_out: LeftOut = []
    for path in paths:
        inside: list[Path] = []
        # A folder that may not be listed stays too: opening it gives the reason.
        if path.is_dir() and os.access(path, os.R_OK | os.X_OK):
            for each in sorted(path.iterdir()):
                why = _why_not_read(each)
                if why is None:
                    inside.append(each)
                else:
                    left_out.append((each, why))
        listed += inside or [path]
    return import_order(listed, log_files), left_out


def _why_not_read(path: Path) -> str | None:
    if path.is_dir():
        return "a folder: name it to import it"
    if not path.is_file():
        return "not a file"
    if _READ.search(path.name):
        return None
    if _PACKED.search(path.name):
        return "packed in a way that is not read: unpack it, or pack it as .gz"
    return "its name is none of a log file or of JSON (.log, .jsonl, .json): name it to import it all the same"


def match_log_file(path: Path, log_files: LogFiles | None) -> re.Match[str] | None:
    """How the name matches the vendor's log files; None for other files."""
    return None if log_files is None else log_files.name.match(path.name)


def import_order(paths: Sequence[Path], log_files: LogFiles | None) -> list[Path]:
    """Sort CDR files among themselves in the order their lines were written; other files keep their places.

    Within one day, a run that began on an earlier day comes before runs that began on this day, whatever their time.
    Rotated parts of one file come before the file, the oldest first.
    """
    cdr = [(match["date"], match["run"], path) for path in paths if (match := match_log_file(path, log_files))]
    began: dict[str, str] = {}
    for date, run, _ in cdr:
        began[run] = min(date, began.get(run, date))
    ordered = iter(sorted(cdr, key=lambda each: (each[0], began[each[1]], each[1], _rotation(each[2]))))
    return [next(ordered)[2] if match_log_file(path, log_files) else path for path in paths]


def _rotation(path: Path) -> tuple[int, int, str]:
    """Sorts the parts of one rotated file: `.log-2024…`, then `.log.2`, `.log.1`, `.log`."""
    found = _ROTATION.search(path.name)
    if found is None:
        return 2, 0, ""
    text = found[1]
    if text.isdigit() and len(text) <= _LONGEST_NUMBER:
        return 1, -int(text), ""
    return 0, 0, text

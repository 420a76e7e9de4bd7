"""`tracker sources check`: says what a declaration makes of sample bodies, before it is used."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_error, print_json, print_line, print_table
from tracker.config.declarations import declaration_text
from tracker.errors import ConfigInvalid
from tracker.sources.declared.check import Checked, check_body, describe_proof
from tracker.sources.declared.reading import DeclarationWrong, read_declaration

MAX_SAMPLES = 1_000
MAX_BYTES = 4 * 1024 * 1024


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    summary = "Check a declaration: its mistakes by line, and what sample bodies would mean."
    parser = add_command(subparsers, "sources", run, summary, as_json=True)
    parser.set_defaults(needs_config=False)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    check = actions.add_parser("check", help=summary, description=summary)
    check.add_argument("file", metavar="FILE", help="the declaration, or the name of one that ships with Tracker")
    check.add_argument("--print", action="store_true", help="print the declaration itself, to change a copy")
    check.add_argument("--samples", metavar="FOLDER", help="a folder with one body a file, as the vendor sends it")


def run(arguments: argparse.Namespace) -> int:
    """Print the mistakes and return 1, or what is proved and what each sample means."""
    text = declaration_text(arguments.file, Path(), "the declaration")
    if arguments.print:
        sys.stdout.write(text)
        return 0
    try:
        declaration = read_declaration(text)
    except DeclarationWrong as error:
        if arguments.json:
            print_json({"mistakes": [msgspec.to_builtins(each) for each in error.mistakes]})
        else:
            for mistake in error.mistakes:
                print_error(f"{arguments.file}: {mistake}")
        return 1
    checked = [
        (path.name, check_body(declaration, path.read_bytes()[:MAX_BYTES])) for path in _files(arguments.samples)
    ]
    if arguments.json:
        samples = [{"file": name, **msgspec.to_builtins(each)} for name, each in checked]
        print_json({"title": declaration.title, "proof": describe_proof(declaration), "samples": samples})
        return 0
    print_line(f"{declaration.title}: no mistakes. Proved: {describe_proof(declaration)}")
    if checked:
        print_table(
            "What the samples mean", ("file", "event", "fact", "when", "session", "about", "not used"), _rows(checked)
        )
    else:
        print_line("To see what bodies would mean, name a folder with one body a file: --samples FOLDER")
    return 0


def _files(folder: str | None) -> list[Path]:
    if folder is None:
        return []
    try:
        found = sorted(path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise ConfigInvalid(f"--samples: {folder} cannot be read: {error.strerror}") from error
    if not found:
        raise ConfigInvalid(f"--samples: {folder} has no files: put one body into each, as the vendor sends it")
    return found[:MAX_SAMPLES]


def _rows(checked: list[tuple[str, Checked]]) -> list[tuple[Any, ...]]:
    return [
        (name, each.event or "(none)", fact.kind, fact.at, fact.session, fact.about, ", ".join(each.unused))
        for name, each in checked
        for fact in each.facts
    ]

"""`[evidence]`: its defaults, and errors that name their key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tracker.config import load
from tracker.errors import ConfigInvalid


def read(text: str) -> load.Config:
    return load.read(tomllib.loads(text), Path("/srv/config.toml"), {})


def test_without_the_table_checkpoints_are_hourly_and_beside_the_log() -> None:
    found = read("").evidence
    assert (found.key_file, found.file) == (Path("/srv/data/checkpoint.key"), Path("/srv/data/checkpoints.txt"))
    assert (found.every, found.origin, found.former_keys) == (3_600_000_000, "tracker.local/log", ())


def test_off_means_checkpoints_only_by_command() -> None:
    assert read('[evidence]\nevery = "off"').evidence.every is None
    assert read('[evidence]\nevery = "90s"').evidence.every == 90_000_000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('every = "never"', 'evidence.every: .*or "off"'),
        ('every = "0h"', "evidence.every"),
        ('origin = ""', "evidence.origin"),
        ('origin = "a b"', "evidence.origin"),
        ('origin = "a+b"', "evidence.origin"),
        ('origin = "https://a/log"', "write 'a/log'"),
        ('key_file = ""', "evidence.key_file"),
        ('file = "data/log.db"', "evidence.file: this is the same file as log.path"),
        ('file = "data/../data/views.db"', "evidence.file: this is the same file as views.path"),
        ('key_file = "data/checkpoints.txt"', "evidence.file: this is the same file as evidence.key_file"),
        ("key = 1", "evidence.key: unknown key"),
    ],
)
def test_an_error_names_its_key(line: str, words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words):
        read(f"[evidence]\n{line}")

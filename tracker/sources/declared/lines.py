"""On which line of a TOML text each key stands. `tomllib` reads the values, but does not say where they were."""

from __future__ import annotations

import re
from collections import Counter

Where = tuple[str | int, ...]
"""The way to a value: names of tables and keys, and numbers of elements in arrays of tables."""

_TABLE = re.compile(r"""\s*(\[\[?)\s*([A-Za-z0-9_."'\s-]+?)\s*\]""")
_KEY = re.compile(r"""\s*([A-Za-z0-9_."'-]+(?:\s*\.\s*[A-Za-z0-9_"'-]+)*)\s*=""")
_QUOTES = ('"""', "'''")


class Lines:
    """The lines of one text."""

    def __init__(self, text: str) -> None:
        self._found: dict[Where, int] = {}
        table: Where = ()
        counts: Counter[Where] = Counter()
        ends_with: str | None = None
        depth = 0
        for number, line in enumerate(text.splitlines(), 1):
            if ends_with is not None:
                ends_with = None if ends_with in line else ends_with
                continue
            if depth > 0:
                depth += _nesting(line)
                continue
            if found := _TABLE.match(line):
                table = _split(found[2])
                if found[1] == "[[":
                    counts[table] += 1
                    table = (*table, counts[table] - 1)
                self._found.setdefault(table, number)
            elif found := _KEY.match(line):
                self._found.setdefault((*table, *_split(found[1])), number)
                value = line[found.end() :]
                ends_with = next((quotes for quotes in _QUOTES if value.count(quotes) == 1), None)
                depth = 0 if ends_with else max(0, _nesting(value))

    def of(self, where: Where) -> int:
        """The line of a key, or of the table it should be in; 1 where there is neither."""
        while where:
            if where in self._found:
                return self._found[where]
            where = where[:-1]
        return 1


def _split(name: str) -> Where:
    return tuple(part.strip().strip("\"'") for part in name.split("."))


def _nesting(text: str) -> int:
    """How many brackets stay open at the end of this text. Those in strings and comments do not count."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*', "", text)
    return sum(bare.count(each) for each in "[{") - sum(bare.count(each) for each in "]}")

"""What a verification finds wrong, check by check. It ends after `MAX_PROBLEMS`, so that no bundle can fill the memory."""

from __future__ import annotations

MAX_PROBLEMS = 20
"""In all checks together. A forged bundle could have millions."""
MAX_CHARS = 500
"""Longer problems are cut off: names in a bundle may be very long."""


class TooManyProblems(Exception):
    """The bundle has `MAX_PROBLEMS` problems. The rest of it is not checked."""


class Findings:
    """Collects problems. `problems`: name of a check → its problems in the order they were found."""

    def __init__(self) -> None:
        self.problems: dict[str, list[str]] = {}

    def add(self, check: str, problem: str) -> None:
        """Add one problem. Raises `TooManyProblems` with the last one that is kept."""
        text = problem if len(problem) <= MAX_CHARS else problem[:MAX_CHARS] + "…"
        self.problems.setdefault(check, []).append(text)
        if sum(map(len, self.problems.values())) >= MAX_PROBLEMS:
            raise TooManyProblems

"""Ids that Tracker makes from the texts of vendors. Different things get different ids, whatever the texts are. Pure.

interval_key    the key of an interval in the folded state; nobody sees it
distinct_ids    the ids of the rows of one table in one session
distinct_run    the key of a run that the vendor named; a key that Tracker makes is `provisional_run`
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from tracker.domain.facts import Fact, Micros, RunRules

_LAST = frozenset("0123456789~")
_LIKE_PROVISIONAL = re.compile(r"(?P<room>.*)_[0-9]{12,15}~*", re.DOTALL)


def interval_key(*parts: object) -> str:
    """One text for these parts. Other parts give another text."""
    texts = [str(part) for part in parts]
    whole = "@".join(texts)
    if "~" not in whole and whole.count("@") == len(texts) - 1:
        return whole
    return "@".join([text.replace("~", "~~").replace("@", "~@") for text in texts])


def distinct_ids(names: Sequence[str]) -> list[str]:
    """An id for each of these names: the name itself, and `name~2`, `name~3` … for one that is repeated.

    A number is left out where the id would be another of the names.
    """
    taken, last = set(names), dict[str, int]()
    found: list[str] = []
    for name in names:
        number = last.get(name, 0) + 1
        while number > 1 and f"{name}~{number}" in taken:
            number += 1
        last[name] = number
        found.append(name if number == 1 else f"{name}~{number}")
    return found


def provisional_run(room: str, start: Micros) -> str:
    """The key of a run that the vendor did not name: the room and the start in ms, with at least 12 digits."""
    return f"{room}_{start // 1000:012}"


def distinct_run(fact: Fact, rules: RunRules) -> Fact:
    """The fact with a run key that no `provisional_run` of another room equals: one that might gets a `~` at its end."""
    place = fact.place
    if place is None or place.run is None or place.run[-1:] not in _LAST:
        return fact
    alike = _LIKE_PROVISIONAL.fullmatch(place.run)
    is_start_of_room = rules.runs_are_starts and alike is not None and alike["room"] == place.room
    if alike is None or (is_start_of_room and place.run[-1] != "~"):
        return fact
    return msgspec.structs.replace(fact, place=msgspec.structs.replace(place, run=f"{place.run}~"))

"""The tree drawn on top of `tracker/errors.py` is the tree of its classes."""

from __future__ import annotations

import inspect
import re

from tracker import errors
from tracker.errors import TrackerError

Tree = dict[str, str | None]
"""Class → its base; the root has none."""


def drawn() -> Tree:
    """The tree as the docstring draws it: four columns a level."""
    tree: Tree = {}
    branch: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:│   |    )*(?:[├└]── )?)([A-Z]\w+)", line)
        if match is None:
            continue
        level = len(match[1]) // 4
        del branch[level:]
        assert match[2] not in tree
        tree[match[2]] = branch[-1] if branch else None
        branch.append(match[2])
    return tree


def defined() -> dict[str, type[BaseException]]:
    """Every exception class of the file."""
    return {
        name: each
        for name, each in vars(errors).items()
        if inspect.isclass(each) and issubclass(each, BaseException) and each.__module__ == errors.__name__
    }


def test_the_tree_drawn_is_the_tree_there_is() -> None:
    real: Tree = {}
    for name, each in defined().items():
        (base,) = each.__bases__
        real[name] = None if each is TrackerError else base.__name__
    assert drawn() == real


def test_everything_that_can_go_wrong_is_caught_as_one() -> None:
    assert all(issubclass(each, TrackerError) for each in defined().values())


def test_leaves_are_facts_without_a_suffix() -> None:
    tree = drawn()
    leaves = set(tree) - set(tree.values())
    assert not [name for name in leaves if name.endswith(("Error", "Exception", "Failure"))]


def test_every_error_says_who_has_to_act() -> None:
    for name, each in defined().items():
        assert each.__doc__, name
        assert each.__doc__.strip().endswith("."), name

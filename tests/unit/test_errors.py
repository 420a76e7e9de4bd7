"""The tree in the docstring of `tracker/errors.py` is the tree of its classes."""

from __future__ import annotations

import inspect
import re

from tracker import errors
from tracker.errors import TrackerError

Tree = dict[str, str | None]
"""Class → its base; the root has none."""


def drawn() -> Tree:
    """The tree in the docstring: four columns for each level."""
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


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    real: Tree = {}
    for name, each in defined().items():
        (base,) = each.__bases__
        real[name] = None if each is TrackerError else base.__name__
    assert drawn() == real


def test_every_error_has_the_same_base() -> None:
    assert all(issubclass(each, TrackerError) for each in defined().values())


def test_names_of_concrete_errors_have_no_suffix() -> None:
    tree = drawn()
    leaves = set(tree) - set(tree.values())
    assert not [name for name in leaves if name.endswith(("Error", "Exception", "Failure"))]


def test_every_error_has_a_docstring() -> None:
    for name, each in defined().items():
        assert each.__doc__, name
        assert each.__doc__.strip().endswith("."), name

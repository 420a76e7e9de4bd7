"""Every cache is listed: those that hold senders' text are dropped when the views change, the others hold none."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.paths import ROOT
from tracker.domain.text_cache import HOLDERS

TRACKER = ROOT / "tracker"
NO_TEXT = {
    "evidence/bundle/build.py": "hashes of the tree, while one bundle is made",
    "evidence/sources_in_force.py": "sources of config.toml",
    "ingest/recorded_response.py": "the date of a second",
    "log/fair_queue.py": "deliveries until they are written",
    "log/group_commit.py": "work until it is done",
    "log/jetstream/log.py": "numbers",
    "log/keys/key_store.py": "the schema",
    "log/merkle/leaf.py": "names from config.toml and Tracker's own words",
    "log/sqlite/bulk.py": "statements",
    "log/sqlite/migrate.py": "the schema",
    "projections/folding.py": "functions by type",
    "projections/timeline_entries.py": "shapes by type",
    "server/metrics.py": "times and names from config.toml",
    "server/sources.py": "shipped dictionaries",
    "sources/declared/declaration.py": "names of fields by type",
    "views/presenters.py": "names of fields by type",
    "views/sqlite/file.py": "the schema",
}
"""Files with caches of anything else → what they hold."""
MADE_OF = {"OrderedDict", "deque", "lru_cache", "cache"}
NAMED = ("cache", "_known", "buffer", "_events", "recent")


def caches(path: Path) -> set[str]:
    """What looks like a cache: by what it is made of, or an attribute by its name that holds many things."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        name = node.func if isinstance(node, ast.Call) else node
        called = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
        is_module = (
            isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id == "functools"
        )
        if called in MADE_OF and (is_module or (called in {"OrderedDict", "deque"} and isinstance(node, ast.Call))):
            found.add(called)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            kind = ast.unparse(node.annotation)
            if kind.startswith(("dict[", "list[", "set[", "OrderedDict[", "deque[")) and any(
                word in node.target.attr.lower() for word in NAMED
            ):
                found.add(node.target.attr)
        if isinstance(node, ast.ClassDef) and "cache" in node.name.lower():
            found.add(node.name)
    return found


def test_every_cache_is_listed_with_who_drops_it_or_why_it_holds_no_text() -> None:
    found = {path.relative_to(TRACKER).as_posix() for path in TRACKER.rglob("*.py") if caches(path)}
    assert found == HOLDERS.keys() | NO_TEXT.keys()

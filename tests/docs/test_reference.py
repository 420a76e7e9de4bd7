"""docs/reference/api.md and docs/reference/errors.md list every route, parameter, field and error."""

from __future__ import annotations

import json
import re

from tests.support.paths import DOCS
from tracker import errors
from tracker.api import openapi, problems
from tracker.api.app import ROUTES
from tracker.ingest.webhooks import REFUSALS

API = (DOCS / "reference" / "api.md").read_text("utf-8")
ERRORS = (DOCS / "reference" / "errors.md").read_text("utf-8")
DOCUMENT = json.loads(openapi.document(ROUTES))


def leaves(root: type[BaseException]) -> list[type[BaseException]]:
    below = [leaf for child in root.__subclasses__() if child.__module__ == "tracker.errors" for leaf in leaves(child)]
    return below or [root]


def statuses(section: str) -> dict[str, str]:
    """problem → status, of one section's table."""
    rows = re.findall(r"^\| ((?:`[a-z-]+` ?)+)\| (\d{3}) \|", section, re.MULTILINE)
    return {name: status for names, status in rows for name in re.findall(r"[a-z-]+", names)}


HOOKS, READS = (statuses(part) for part in re.split(r"^## Reading.*$", ERRORS, flags=re.MULTILINE))


def test_every_error_that_reaches_http_is_on_the_page() -> None:
    for leaf in leaves(errors.TrackerError):
        name = leaf.__name__
        if name in {"ConfigInvalid", "Ambiguous", "DeclarationsChanged"} or issubclass(leaf, errors.EvidenceError):
            assert f"`{name}`" in ERRORS
        else:
            assert problems.problem_kind(leaf("x", "y") if name == "ParameterInvalid" else leaf()) in HOOKS | READS, (
                name
            )


def test_the_statuses_on_the_page_are_those_of_the_endpoints() -> None:
    for error, (status, _, _) in problems.ERROR_STATUSES.items():
        kind = problems.problem_kind(error("x", "y") if error is errors.ParameterInvalid else error())
        assert READS.get(kind) == str(status), kind
    for error, (status, _, _) in REFUSALS.items():
        assert HOOKS.get(problems.problem_kind(error())) == str(status)
    for leaf in leaves(errors.LogError):
        assert HOOKS[problems.problem_kind(leaf())] == "503"


def test_every_error_a_reader_can_meet_has_a_status() -> None:
    for branch in (errors.QueryError, errors.ViewsError, errors.LogError):
        for leaf in leaves(branch):
            assert leaf in problems.ERROR_STATUSES or leaf is errors.Ambiguous


def test_every_route_and_parameter_is_on_the_page() -> None:
    for path, methods in DOCUMENT["paths"].items():
        rows = [line for line in API.splitlines() if line.startswith("|") and f"GET {path}`" in line]
        assert len(rows) == 1, path
        for parameter in methods["get"]["parameters"]:
            if parameter["in"] != "query":
                continue
            assert f"`{parameter['name']}`" in API
            if parameter["name"] not in {"limit", "cursor", "at_least"}:
                assert f"`{parameter['name']}`" in rows[0], (path, parameter["name"])
        if any(parameter["name"] == "cursor" for parameter in methods["get"]["parameters"]):
            assert "paged" in rows[0]


def test_every_field_is_on_the_page() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            if name != "Problem":
                assert re.search(rf'[`"]{field}[`",:]|[{{ ]{field}[,}}]', API), (name, field)


def test_the_example_of_a_session_has_its_fields() -> None:
    example = json.loads(re.findall(r"```json\n(.*?)```", API, re.DOTALL)[0])
    assert list(example) == list(DOCUMENT["components"]["schemas"]["Session"]["properties"])

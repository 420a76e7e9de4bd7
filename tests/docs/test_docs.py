"""The documentation is true: its commands exist, its snippets parse, its vendor tables miss no event."""

from __future__ import annotations

from tests.support.paths import ROOT

import json
import re
import tomllib
from pathlib import Path

import pytest

from tracker.sources import registry
from tracker.demo.calls import settings


SAMPLES = ROOT / "tests" / "samples"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
)
VENDORS = tuple(registry.VENDORS)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

NOT_EVENTS = {"room_metadata_updated", "SOMETHING_NEW", "something-new"}
"""Invented in the samples: events of future versions, which must become `unknown`."""


def fences(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text("utf-8")) if kind == language]


def test_the_readme_names_no_make_target_that_does_not_exist() -> None:
    rules = re.findall(r"^([\w .-]+?):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = {name for rule in rules for name in rule.split()}
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        named = {each for block in fences(page, "sh") for each in re.findall(r"^make (\w+)", block, re.MULTILINE)}
        assert named
        assert named <= targets


def test_the_readme_names_every_command_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    from tracker.cli.main import parser  # noqa: PLC0415 - only this test needs the command line

    text = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"^\| .*", text, re.MULTILINE))
    commands = {name for row in named for name in re.findall(r"`tracker ([a-z]+(?:-[a-z]+)*)", row)}
    with pytest.raises(SystemExit):
        parser().parse_args(["no-such-command"])
    choices = capsys.readouterr().err.partition("choose from")[2]
    assert commands == set(re.findall(r"[a-z]+(?:-[a-z]+)*", choices))


def test_every_toml_snippet_is_toml_and_its_vendors_exist() -> None:
    for page in PAGES:
        for block in fences(page, "toml"):
            for source in tomllib.loads(block).get("sources", []):
                assert source["vendor"] in VENDORS


def sampled_events(vendor: str) -> set[str]:
    """The names of all events of a vendor that the samples hold."""
    events: set[str] = set()
    if vendor == "openvidu":
        for name in ("openvidu2-webhook.jsonl", "openvidu2-timelines.jsonl", "openvidu2-cdr.jsonl"):
            for line in (SAMPLES / name).read_bytes().splitlines():
                body = json.loads(line)
                events.add(body["event"] if "event" in body else next(iter(body)))
    elif vendor == "openvidu_meet":
        for line in (SAMPLES / "openvidu-meet.jsonl").read_bytes().splitlines():
            events |= {json.loads(line)["body"].get("event")} - {None}
        for line in (SAMPLES / "openvidu-meet-signed.jsonl").read_bytes().splitlines():
            events.add(json.loads(json.loads(line)["body_text"])["event"])
    elif vendor == "streamrec":
        for line in (SAMPLES / "streamrec.jsonl").read_bytes().splitlines():
            sample = json.loads(line)
            if sample["api"] == "streamrec-webhook":
                events.add(sample["body"]["status"])
        events |= {"session_start", "recording_start", "recording_stop", "supervisor_join_session"}
    elif (SAMPLES / f"{vendor}.jsonl").exists():
        source = registry.build(settings(vendor, "x" * 32, name=vendor))
        for line in (SAMPLES / f"{vendor}.jsonl").read_bytes().splitlines():
            events.add(source.verify_trusted(line, received_at=0, proof={}).event)
    else:
        for line in (SAMPLES / f"{vendor}-signed.jsonl").read_bytes().splitlines():
            events.add(json.loads(line)["event"])
    return {event for event in events if event} - NOT_EVENTS


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_table_of_a_vendor_covers_every_event_of_its_samples(vendor: str) -> None:
    page = ROOT / "docs" / "reference" / "vendors" / f"{vendor}.md"
    assert page.exists()
    rows = [line for line in page.read_text("utf-8").splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    # plugNmeet < 2024-04-09 wrote its own names in upper case: one row covers both.
    missing = {event for event in sampled_events(vendor) if event not in named and event.lower() not in named}
    assert not missing

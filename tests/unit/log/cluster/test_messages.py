"""Messages of nodes about the tree: every node decodes them alike, whatever they contain."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracker.log.sqlite.replica import StreamEntry, Replica
from tracker.log.cluster.messages import (
    DivergenceReport,
    CosignedTree,
    SignedTree,
    TreeMessage,
    decode,
    encode,
    message_id,
)


@pytest.mark.parametrize(
    "sent",
    [
        SignedTree("a", 5, "a note\n\n— of it\n", "log+00000000+key"),
        CosignedTree("b", 5, "log/b", "— log/b AAAA\n"),
        DivergenceReport("b", 2**63 - 1, b"", None),
        DivergenceReport("ü", 1, bytes(32), 1),
    ],
)
def test_an_encoded_message_is_decoded_unchanged(sent: TreeMessage) -> None:
    assert decode(encode(sent)) == sent
    assert message_id(encode(sent)) == message_id(encode(sent))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"TKF",
        b"null",
        b'{"type":"signed"}',
        b'{"type":"another","node":"a","size":1}',
        b'{"type":"signed","node":"a","size":0,"note":""}',
        b'{"type":"signed","node":"a","size":9223372036854775808,"note":""}',
        b'{"type":"signed","node":"\xff","size":1,"note":""}',
        b'{"type":"signed","node":"\\ud800","size":1,"note":""}',
        b'{"type":"complaint","node":"a","size":1,"root":"?","position":null}',
        b"[" * 100_000,
    ],
)
def test_other_bytes_are_skipped(message: bytes) -> None:
    assert decode(message) is None


@pytest.mark.parametrize("settling", [SignedTree("b", 3, "note\n"), CosignedTree("b", 3, "log/b", "line\n")])
async def test_a_divergence_report_is_settled_by_a_larger_tree_that_the_node_signs_or_cosigns(
    tmp_path: Path, settling: TreeMessage
) -> None:
    await Replica.init(tmp_path / "log.db", log_id="x", stream="s")
    log = await Replica.open(tmp_path / "log.db")
    messages = [
        DivergenceReport("b", 2, bytes(32), 1),
        SignedTree("a", 2, "note\n"),
        CosignedTree("c", 3, "log/c", "line\n"),
        settling,
    ]
    for n, each in enumerate(messages, 1):
        assert await log.divergence_reports() == messages[: int(n > 1)]
        await log.apply([StreamEntry(n, b"", tree_message=each)])
    assert await log.divergence_reports() == []
    await log.close()


def test_a_deeply_nested_message_is_skipped() -> None:
    assert decode(b'{"type":"signed","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}") is None

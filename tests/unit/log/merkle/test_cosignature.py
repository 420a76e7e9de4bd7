"""Cosignatures as C2SP defines them: valid ones are accepted, changed ones are not."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.errors import NoteMalformed, NoteUnverified
from tracker.log.merkle.checkpoint import checkpoint_text, open_checkpoint
from tracker.log.merkle.cosignature import Cosignature, CosignerKey, cosign, verify_cosignatures, with_cosignatures
from tracker.log.merkle.note import Signer, read_note, sign_note

LOG = Signer("example.com/log", bytes(range(32)))
ONE = Signer("node-b.example.com/log", bytes([1]) * 32)
OTHER = Signer("node-c.example.com/log", bytes([2]) * 32)
NOTE = sign_note(checkpoint_text("example.com/log", 7, bytes(32)), [LOG])
TEXT = read_note(NOTE).text


@given(seconds=st.integers(min_value=0, max_value=2**63 - 1), root=st.binary(min_size=32, max_size=32))
def test_a_valid_cosignature_is_accepted_with_its_time(seconds: int, root: bytes) -> None:
    note = sign_note(checkpoint_text("example.com/log", 7, root), [LOG])
    both = with_cosignatures(note, [cosign(read_note(note).text, each, seconds) for each in (ONE, OTHER)])
    assert verify_cosignatures(both, [CosignerKey.from_signer(ONE)]) == [
        Cosignature(CosignerKey.from_signer(ONE), seconds)
    ]
    assert len(verify_cosignatures(both, [CosignerKey.from_signer(ONE), CosignerKey.from_signer(OTHER)])) == 2


def test_a_cosigned_checkpoint_also_verifies_with_the_logs_key_alone() -> None:
    assert open_checkpoint(with_cosignatures(NOTE, [cosign(TEXT, ONE, 9)]), [LOG.verifier]).size == 7


def test_a_note_without_cosignatures_has_no_cosigner() -> None:
    assert verify_cosignatures(NOTE, [CosignerKey.from_signer(ONE)]) == []


def test_a_cosignature_of_another_tree_is_refused() -> None:
    line = cosign(checkpoint_text("example.com/log", 8, bytes(32)), ONE, 9)
    with pytest.raises(NoteUnverified, match="does not fit"):
        verify_cosignatures(with_cosignatures(NOTE, [line]), [CosignerKey.from_signer(ONE)])


def test_a_cosignature_with_another_time_is_refused() -> None:
    name, encoded = cosign(TEXT, ONE, 9).removeprefix("— ").rstrip("\n").split(" ")
    raw = bytearray(base64.b64decode(encoded))
    raw[11] += 1
    forged = f"— {name} {base64.b64encode(raw).decode()}\n"
    with pytest.raises(NoteUnverified, match="does not fit"):
        verify_cosignatures(with_cosignatures(NOTE, [forged]), [CosignerKey.from_signer(ONE)])


def test_a_log_signature_is_no_cosignature() -> None:
    # The same key and text, but signed as a log: key ids of the two kinds differ.
    assert verify_cosignatures(sign_note(TEXT, [ONE]), [CosignerKey.from_signer(ONE)]) == []


def test_a_line_that_is_too_short_is_refused() -> None:
    line = f"— {ONE.name} {base64.b64encode(CosignerKey.from_signer(ONE).id + bytes(8)).decode()}\n"
    with pytest.raises(NoteUnverified, match="wrong length"):
        verify_cosignatures(with_cosignatures(NOTE, [line]), [CosignerKey.from_signer(ONE)])


def test_a_line_that_is_no_signature_cannot_be_added() -> None:
    with pytest.raises(NoteMalformed):
        with_cosignatures(NOTE, ["somebody was here\n"])


def test_a_verifier_key_is_read_back() -> None:
    assert CosignerKey.read(str(CosignerKey.from_signer(ONE))) == CosignerKey.from_signer(ONE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        str(ONE.verifier),
        str(CosignerKey.from_signer(ONE)).replace("node-b", "node-x"),
        str(CosignerKey.from_signer(ONE))[:-4],
    ],
)
def test_an_invalid_verifier_key_of_a_cosigner_is_refused(text: str) -> None:
    with pytest.raises(NoteMalformed):
        CosignerKey.read(text)


def test_the_example_of_the_standard_is_parsed() -> None:
    line = (
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe"
        "+mbIUBkBIfZ+qnA==\n"
    )
    found = read_note(with_cosignatures(NOTE, [line])).signatures[-1]
    assert (found.name, len(found.bytes)) == ("witness.example.com/w1", 8 + 64)
    assert int.from_bytes(found.bytes[:8], "big") == 0x641850CB

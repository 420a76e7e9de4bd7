"""Signed notes and checkpoints: test vectors of other implementations, and a second implementation of the C2SP text."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.errors import EvidenceError, NoteMalformed, NoteUnverified
from tracker.log.merkle.checkpoint import (
    checkpoint_text,
    open_checkpoint,
    split_checkpoint_file,
    read_checkpoint,
    read_checkpoint_text,
)
from tracker.log.merkle.note import Signer, Verifier, open_note, sign_note

# golang.org/x/mod/sumdb/note, note_test.go
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# c2sp.org/signed-note, "Example"
FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# c2sp.org/tlog-checkpoint
EXAMPLE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)


def as_c2sp_says(note: bytes, vkey: str) -> tuple[str, int, bytes]:
    """A second implementation of c2sp.org/signed-note and tlog-checkpoint; returns origin, size, root."""
    assert not any(byte < 0x20 and byte != 0x0A for byte in note)
    cut = note.rindex(b"\n\n")
    text, lines = note[: cut + 1], note[cut + 2 :].split(b"\n")
    assert lines.pop() == b""
    name, key_id, key = re.fullmatch(r"([^+\s]+)\+([0-9a-f]{8})\+(.+)", vkey).groups()
    raw = base64.b64decode(key, validate=True)
    assert (raw[0], len(raw)) == (1, 33)
    assert hashlib.sha256(name.encode() + b"\x0a\x01" + raw[1:]).hexdigest()[:8] == key_id
    mine = [line.split(b" ") for line in lines if line.split(b" ")[1] == name.encode()]
    assert mine
    for dash, _, encoded in mine:
        assert dash == "\u2014".encode()
        signature = base64.b64decode(encoded, validate=True)
        assert signature[:4].hex() == key_id
        Ed25519PublicKey.from_public_bytes(raw[1:]).verify(signature[4:], text)
    origin, size, root, *_ = text.decode().split("\n")
    assert size == str(int(size))
    return origin, int(size), base64.b64decode(root, validate=True)


def test_notes_are_signed_byte_for_byte_as_the_go_implementation_does() -> None:
    signer = Signer.read(PETER_PRIVATE)
    assert sign_note(TEXT, [signer]) == f"{TEXT}\n{PETER_LINE}"
    assert str(signer) == PETER_PRIVATE
    assert str(signer.verifier) == PETER


def test_the_example_of_the_standard_verifies() -> None:
    assert open_note(FOO_NOTE, [Verifier.read(FOO)]).text == "This is an example message.\n"
    assert read_checkpoint(EXAMPLE)[:2] == ("example.com/behind-the-sofa", 20852163)


def test_one_signature_of_a_known_key_is_enough_and_others_are_ignored() -> None:
    peter, enoch = Verifier.read(PETER), Verifier.read(ENOCH)
    both = f"{TEXT}\n{PETER_LINE}{ENOCH_LINE}"
    assert open_note(both, [peter]).signers == (peter,)
    assert open_note(both, [enoch]).signers == (enoch,)
    assert open_note(both, [enoch, peter]).signers == (peter, enoch)
    assert open_note(f"{TEXT}\n{PETER_LINE}{PETER_LINE}", [peter]).signers == (peter,)
    with pytest.raises(NoteUnverified, match="EnochRoot"):
        open_note(f"{TEXT}\n{PETER_LINE}", [enoch])
    with pytest.raises(NoteUnverified):
        open_note(both, [])


def test_a_wrong_signature_of_a_known_key_refuses_the_whole_note() -> None:
    wrong = ENOCH_LINE.replace("SO3Nb", "SO3Nc")
    with pytest.raises(NoteUnverified, match="EnochRoot"):
        open_note(f"{TEXT}\n{PETER_LINE}{wrong}", [Verifier.read(PETER), Verifier.read(ENOCH)])
    assert open_note(f"{TEXT}\n{PETER_LINE}{wrong}", [Verifier.read(PETER)]).text == TEXT


@pytest.mark.parametrize(
    "note",
    [
        "",
        TEXT,
        TEXT + "\n",
        f"{TEXT}\n{PETER_LINE[:-1]}",
        f"\x01{TEXT}\n{PETER_LINE}",
        f"\ud800{TEXT}\n{PETER_LINE}",
        f"{TEXT}\n— Bad Name {PETER_LINE.split(' ')[2]}",
        f"{TEXT}\n{PETER_LINE}Unexpected line.\n",
        f"{TEXT}\n{PETER_LINE * 101}",
        f"{TEXT}\n— PeterNeumann x08goA\n",
        f"{TEXT}\n— PeterNeumann x08gow==\n",
        f"{TEXT}\n{PETER_LINE}".replace("nAM=", "nAN="),
    ],
)
def test_text_that_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(NoteMalformed):
        open_note(note, [Verifier.read(PETER)])


@pytest.mark.parametrize(("read", "text"), [(Verifier.read, PETER), (Signer.read, PETER_PRIVATE)])
def test_a_truncated_or_changed_key_is_refused(read: object, text: str) -> None:
    assert callable(read)
    for start in range(len(text)):
        for end in range(start, len(text) + 1):
            if (start, end) != (0, len(text)):
                with pytest.raises(EvidenceError):
                    read(text[start:end])
    for at, letter in enumerate(text):
        with pytest.raises(EvidenceError) as raised:
            read(text[:at] + chr(ord(letter) + 1) + text[at + 1 :])
        assert text[-20:] not in str(raised.value)


def test_keys_of_other_algorithms_and_lengths_are_refused() -> None:
    for vkey in (
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ):
        with pytest.raises(NoteMalformed):
            Verifier.read(vkey)


def test_the_repr_of_a_signer_hides_its_key() -> None:
    signer = Signer.read(PETER_PRIVATE)
    assert PETER_PRIVATE[-20:] not in repr(signer) + f"{signer!r}"


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**60), st.from_regex(r"[a-z0-9./-]{1,40}", fullmatch=True))
@settings(deadline=None)
def test_a_checkpoint_is_read_by_a_second_implementation_of_the_standard(root: bytes, size: int, origin: str) -> None:
    signer = Signer.generate(origin)
    note = sign_note(checkpoint_text(origin, size, root), [signer, Signer.generate("witness.example/w")])
    assert as_c2sp_says(note.encode(), str(signer.verifier)) == (origin, size, root)
    assert open_checkpoint(note, [signer.verifier]) == (origin, size, root)
    assert Signer.read(str(signer)).sign("x") == signer.sign("x")


def test_a_known_key_of_another_log_signs_no_checkpoint_of_this_one() -> None:
    own, other = Signer.generate("a.example/log"), Signer.generate("b.example/log")
    keys = [own.verifier, other.verifier]
    text = checkpoint_text("a.example/log", 17, bytes(32))
    assert open_checkpoint(sign_note(text, [other, own]), keys).size == 17
    with pytest.raises(NoteUnverified, match="signed by the key of another"):
        open_checkpoint(sign_note(text, [other]), keys)


@given(st.integers(0, 200), st.integers(1, 255))
@settings(deadline=None, max_examples=150)
def test_no_byte_of_a_checkpoint_can_be_changed(at: int, change: int) -> None:
    signer = Signer.read(PETER_PRIVATE)
    note = sign_note(checkpoint_text("PeterNeumann", 17, bytes(32)), [signer]).encode()
    at %= len(note)
    changed = note[:at] + bytes([note[at] ^ change]) + note[at + 1 :]
    with pytest.raises((EvidenceError, UnicodeDecodeError)):
        open_checkpoint(changed.decode(), [signer.verifier])


@pytest.mark.parametrize(
    "text",
    [
        "o\n1\n",
        f"o\n01\n{'A' * 43}=\n",
        f"o\n-1\n{'A' * 43}=\n",
        f"o\n1 \n{'A' * 43}=\n",
        f"o\n１\n{'A' * 43}=\n",
        f"o\n1\n{'A' * 43}\n",
        f"o\n1\n{'A' * 42}B=\n",
        f"\n1\n{'A' * 43}=\n",
        f"o\n1\n{'A' * 43}=\n\n",
        f"o\n1\n{'A' * 43}=",
        f"o\n1\n{'A' * 40}\n",
    ],
)
def test_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteMalformed):
        read_checkpoint_text(text)


def test_extension_lines_are_ignored() -> None:
    assert read_checkpoint_text(f"o\n0\n{'A' * 43}=\nmore\n") == ("o", 0, bytes(32))


def test_a_file_of_checkpoints_is_split_into_notes_and_other_lines_are_reported() -> None:
    signer = Signer.read(PETER_PRIVATE)
    notes = [sign_note(checkpoint_text("PeterNeumann", n, bytes(32)), [signer]) for n in (1, 2, 3)]
    whole = "\n".join(notes) + "\n"
    assert [(piece.text, piece.is_note) for piece in split_checkpoint_file(whole)] == [(note, True) for note in notes]
    broken = notes[0] + "\n" + notes[1][:30] + "\n\n" + notes[2]
    found = list(split_checkpoint_file(broken))
    assert [piece.is_note for piece in found] == [True, False, True]
    assert (found[1].line, found[2].text) == (7, notes[2])
    assert [piece.is_note for piece in split_checkpoint_file("nonsense")] == [False]

"""Records are compressed before encryption, with a shipped dictionary without personal data; older records can still be read."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import pytest

from tests.support.samples import samples
from tracker.demo.calls import VENDORS, whole_call
from tracker.errors import LogCorrupt
from tracker.log.merkle.leaf import compute_commitment, framed
from tracker.log.record_compression import dictionary_of
from tracker.log.shipped_dictionaries import ShippedDictionaries
from tracker.server.sources import shipped_dictionaries
from tracker.sources import registry
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore

SHIPPED = {
    "40001.zdict": "444f831ac63e44b1fa43a71247b5a5bec94d30f0ad0ee09bbb582a9a4961689f",
    "40002.zdict": "48229f85815303714c7a551dbc8e9feba3586a38a36235bf0f37b7dc18ea3918",
    "40003.zdict": "289551af2a438289178cf1779042c4094add6317c516c388a1f9f926d02f22b9",
    "40004.zdict": "fb11d64b5c3d6f6bb81d25c2a4fd333f3137a3a61e0801771963ba2f70d23ed6",
    "40005.zdict": "53ec1a322ca3efd1c9b1dabafaae92c72cb46d87b67c9613cefa24e47de5f162",
    "40006.zdict": "5eabb57643fb5719a0e2cf5dd22b9f6dc4cc62fdde09cbfe895a9abfc6976f40",
    "40007.zdict": "286ca17b0660be69aef022c0472edcec3abdb1321ad061380822c08c93b235f2",
    "40008.zdict": "daae25fa6cb071e6c10ce26d37ce90d420ce5409db0a3f0426aba487d66eda40",
}
"""SHA-256 of every shipped dictionary. They never change, because records are compressed with them."""

NUMBERS = {name: vendor.dictionary for name, vendor in registry.VENDORS.items() if vendor.dictionary}
"""The dictionary that each vendor's records are compressed with."""


@pytest.fixture
async def vault(tmp_path: Path) -> KeyStore:
    masters = [MasterKey("first", bytes(32))]
    await KeyStore.create(tmp_path / "keys.db", masters)
    return await KeyStore.open(tmp_path / "keys.db", masters, shipped_dictionaries())


def test_shipped_dictionaries_never_change() -> None:
    sources = resources.files("tracker.sources")
    files = [file for folder in registry.FOLDERS for file in (sources / folder).iterdir() if ".zdict" in file.name]
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert found == SHIPPED
    assert {f"{number}.zdict" for number in NUMBERS.values()} <= set(found)
    # A declared source may be of any vendor.
    assert set(NUMBERS) == set(VENDORS) - {"declared"}


@pytest.mark.parametrize("vendor", [*VENDORS, "tracker"])
async def test_encrypted_records_are_decrypted_unchanged(vault: KeyStore, vendor: str) -> None:
    bodies = [sample.body for sample in samples()] + [b"", b"{}", b"\x28\xb5\x2f\xfd", bytes(range(256))]
    keys = await vault.make_keys(1, len(bodies))
    for position, body in enumerate(bodies, 1):
        for proof in (b"", b'{"scheme":"jwt"}'):
            sealed = vault.encrypt(position, vendor, proof, body, keys[position])
            assert vault.decrypt(position, sealed.body, keys[position]) == (proof, body)
            assert sealed.commitment == compute_commitment(keys[position].salt, proof, body)
    await vault.close()


@pytest.mark.parametrize("vendor", NUMBERS)
def test_a_call_that_is_not_in_the_dictionary_compresses_to_less_than_half(vendor: str) -> None:
    shipped = shipped_dictionaries()
    bodies = [sent.body for seed in range(5) for sent in whole_call(vendor, 1_800_000_000_000_000, seed=1000 + seed)]
    frames = [shipped.pack(vendor, b"{}", body) for body in bodies]
    assert all(frame is not None and dictionary_of(frame) == NUMBERS[vendor] for frame in frames)
    assert sum(len(frame or b"") for frame in frames) < sum(map(len, bodies)) / 2


async def test_a_record_encrypted_without_compression_can_be_read(
    vault: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = (await vault.make_keys(1, 1)).values()
    monkeypatch.setattr(ShippedDictionaries, "pack", lambda _self, _vendor, _proof, _body: None)
    sealed = vault.encrypt(1, "livekit", b"proof", b"body", key)
    assert len(sealed.body) == 12 + len(framed(b"proof", b"body")) + 16
    assert vault.decrypt(1, sealed.body, key) == (b"proof", b"body")
    await vault.close()


async def test_the_error_names_a_missing_dictionary(vault: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = (await vault.make_keys(1, 1)).values()
    strange = (shipped_dictionaries().pack("livekit", b"p", b'{"event":"room_started"}' * 9) or b"").replace(
        NUMBERS["livekit"].to_bytes(2, "little"), (50_000).to_bytes(2, "little"), 1
    )
    monkeypatch.setattr(ShippedDictionaries, "pack", lambda _self, _vendor, _proof, _body: strange)
    sealed = vault.encrypt(1, "livekit", b"p", b"b", key)
    with pytest.raises(LogCorrupt, match="position 1 does not decompress: this Tracker ships no dictionary 50000"):
        vault.decrypt(1, sealed.body, key)
    await vault.close()

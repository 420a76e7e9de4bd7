"""The zstd dictionaries that Tracker ships, for encrypted records: no dictionary may be trained on those.

They are trained on synthetic calls (`bench/train_dictionaries.py`), name nobody, and are part of the stored format: a
compressed record names its dictionary by number, in every log and on every node. A dictionary is never changed or removed;
a better one gets a new number. zstd keeps numbers from 32,768 on for private use.
"""

from __future__ import annotations

from collections.abc import Mapping

from tracker.log.record_compression import Packer, Pair, dictionary_of


class ShippedDictionaries:
    """Compresses and decompresses records with the shipped dictionaries. For one thread."""

    def __init__(
        self, dictionaries: Mapping[int, bytes] | None = None, by_vendor: Mapping[str, int] | None = None
    ) -> None:
        """`dictionaries`: number → dictionary, all that were ever shipped. `by_vendor`: which one compresses a vendor's records."""
        self._dictionaries = dictionaries or {}
        self._by_vendor = by_vendor or {}
        self._packers: dict[int, Packer] = {0: Packer()}

    def pack(self, vendor: str, proof: bytes, body: bytes) -> bytes | None:
        """A zstd frame of both, or None where it would be no smaller."""
        return self._packer(self._by_vendor.get(vendor, 0)).pack(proof, body)

    def unpack(self, frame: bytes) -> Pair:
        """(proof, body). Raises `ValueError` where the frame is damaged, or names a dictionary of a newer Tracker."""
        return self._packer(dictionary_of(frame)).unpack(frame)

    def _packer(self, number: int) -> Packer:
        if number not in self._packers:
            if number not in self._dictionaries:
                raise ValueError(f"this Tracker ships no dictionary {number}")
            self._packers[number] = Packer(self._dictionaries[number])
        return self._packers[number]

"""The dictionaries that Tracker ships, one a vendor: for sealed records, on which no dictionary may be trained.

They are made of synthetic calls (`bench/train_dictionaries.py`), name nobody, and are part of the format: a frame names its
dictionary by number, in every log and on every node. None is ever changed or taken away; a better one gets a new number.
"""

from __future__ import annotations

from importlib import resources

from tracker.log.record_compression import Packer, Pair, dictionary_of

NUMBERS = {"openvidu": 40_001, "openvidu_meet": 40_002, "livekit": 40_003, "plugnmeet": 40_004, "streamrec": 40_005}
"""The one to pack with, by vendor. zstd keeps numbers from 32,768 on for private use."""


class ShippedDictionaries:
    """Packs and unpacks with them, each read when it is first needed. For one thread."""

    def __init__(self) -> None:
        self._packers: dict[int, Packer] = {0: Packer()}

    def pack(self, vendor: str, proof: bytes, body: bytes) -> bytes | None:
        """A frame of both, or None where it would be no smaller."""
        return self._packer(NUMBERS.get(vendor, 0)).pack(proof, body)

    def unpack(self, frame: bytes) -> Pair:
        """(proof, body). Raises `ValueError` where the frame is none of ours, or of a newer Tracker."""
        return self._packer(dictionary_of(frame)).unpack(frame)

    def _packer(self, number: int) -> Packer:
        if number not in self._packers:
            if number not in NUMBERS.values():
                raise ValueError(f"this Tracker ships no dictionary {number}")
            file = resources.files("tracker.log") / "dictionaries" / f"{number}.zdict"
            self._packers[number] = Packer(file.read_bytes())
        return self._packers[number]

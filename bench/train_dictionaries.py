"""How the dictionaries in tracker/log/dictionaries were made: `python bench/train_dictionaries.py FOLDER`.

Of the demo's calls and of the samples, half and half, with all names, ids, numbers and times changed (`traffic.py`). Those
that are shipped are never made again: a better one gets a new number (`tracker/log/shipped_dictionaries.py`).
"""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path

import zstandard
from traffic import KINDS

from tracker.log.merkle.leaf import framed
from tracker.log.record_compression import DICTIONARY_BYTES, LEVEL, with_id
from tracker.log.shipped_dictionaries import NUMBERS

EACH = 1_500

warnings.simplefilter("ignore")
for vendor, number in NUMBERS.items():
    texts = [
        framed(event.proof, event.body) for kind in KINDS.values() for event in itertools.islice(kind(vendor, 7), EACH)
    ]
    made = zstandard.train_dictionary(DICTIONARY_BYTES, texts, level=LEVEL).as_bytes()
    Path(sys.argv[1], f"{number}.zdict").write_bytes(with_id(made, number))

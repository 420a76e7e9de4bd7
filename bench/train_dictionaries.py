"""Train the dictionary of a vendor: `python bench/train_dictionaries.py VENDOR NUMBER FOLDER`.

Half of the training data are sample calls, half are the samples of tests/samples, with all names, ids, numbers and times
changed (`traffic.py`). A shipped dictionary is never trained again: a better one gets a new number, goes beside the old one
into the vendor's folder, and the vendor's `dictionary` names it (`tracker/log/shipped_dictionaries.py`).
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

EVENTS_PER_KIND = 1_500

warnings.simplefilter("ignore")
vendor, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
texts = [
    framed(event.proof, event.body)
    for kind in KINDS.values()
    for event in itertools.islice(kind(vendor, 7), EVENTS_PER_KIND)
]
trained = zstandard.train_dictionary(DICTIONARY_BYTES, texts, level=LEVEL).as_bytes()
(folder / f"{number}.zdict").write_bytes(with_id(trained, number))

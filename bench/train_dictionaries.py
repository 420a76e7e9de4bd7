"""Train the dictionary of a vendor: `python -m bench.train_dictionaries [--vendor livekit] [--number 1] [--folder FOLDER]`.

Half of the training data are sample calls, half are the samples of tests/samples, with all names, ids, numbers and times
changed (`bench/traffic.py`). Without a folder nothing is kept. A shipped dictionary is never trained again: a better one gets
a new number, goes beside the old one into the vendor's folder, and the vendor's `dictionary` names it
(`tracker/log/shipped_dictionaries.py`).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import zstandard

from bench import report
from bench.traffic import KINDS
from tracker.log.merkle.leaf import framed
from tracker.log.record_compression import DICTIONARY_BYTES, LEVEL, with_id

EVENTS_PER_KIND = 1_500


def main(argv: Sequence[str] | None = None) -> int:
    """Train one dictionary."""
    warnings.simplefilter("ignore")
    parser = report.parser(__doc__)
    parser.add_argument("--vendor", default="livekit")
    parser.add_argument("--number", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(argv)
    count = 200 if options.smoke else EVENTS_PER_KIND
    texts = [
        framed(event.proof, event.body)
        for kind in KINDS.values()
        for event in itertools.islice(kind(options.vendor, 7), count)
    ]
    trained = zstandard.train_dictionary(DICTIONARY_BYTES, texts, level=LEVEL).as_bytes()
    if options.folder is not None:
        (options.folder / f"{options.number}.zdict").write_bytes(with_id(trained, options.number))
    print(f"{options.vendor}: a dictionary of {len(trained)} bytes from {len(texts)} records")
    return 0


if __name__ == "__main__":
    report.run(main)

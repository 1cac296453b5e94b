"""``python -m trainers.data <cache folder>``: prove that data sets can be trained on, before any run starts.

Reads a JSON list of ``data`` sections from standard input. Decodes what the runs would decode first, into the cache
that they share, and draws their subsets; of images that are decoded when needed it decodes some. Prints a JSON list
with the digest of each selection of images. For the first section that cannot work it prints one JSON object instead,
with its number, the reason and the option to point at, and exits with 2.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from trainers.config import Data
from trainers.data import DataProblem, FileImages, ImageSet, load, training_subset
from trainers.data.archive import decode
from trainers.data.images import Ints
from trainers.data.record import selection_digest

#: Images of a split that are decoded to see whether they can be: all of a small data set, seconds for ImageNet.
_SAMPLE = 1000


def main() -> int:
    """Check all sections; the exit code."""
    cache_dir = Path(sys.argv[1])
    digests = []
    for number, section in enumerate(json.load(sys.stdin)):
        try:
            digests.append(check(Data.model_validate(section), cache_dir))
        except DataProblem as problem:
            answer = {"number": number, "problem": problem.message, "option": problem.option}
            json.dump(answer, sys.stdout)
            return 2
    json.dump(digests, sys.stdout)
    return 0


def check(data: Data, cache_dir: Path) -> str:
    """Load a data set and select from it as a run would. Returns the digest that its ``dataset.json`` would have.

    Raises:
        DataProblem: as the run would.
    """
    images = load(data, cache_dir)
    subset = training_subset(data, images)
    _decode_some(images.train, subset.indices)
    _decode_some(images.test, np.arange(len(images.test)))
    return selection_digest(images, subset)


def _decode_some(images: ImageSet, numbers: Ints) -> None:
    if not isinstance(images, FileImages):
        return
    step = max(1, len(numbers) // _SAMPLE)
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as threads:
        for _ in threads.map(lambda number: decode(images.archive, images.names[number]), numbers[::step]):
            pass


if __name__ == "__main__":
    sys.exit(main())

"""``python -m trainers.data <cache folder>``: prove that data sets can be trained on, before any run starts.

Reads a JSON list of ``data`` sections from standard input. Decodes what the runs would decode first, into the cache
that they share, and draws their subsets. Prints one JSON line for the first section that cannot work, with its number
and the reason, and exits with 2.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from trainers.config import Data
from trainers.data import DataProblem, load, training_subset


def main() -> int:
    """Check all sections; the exit code."""
    cache_dir = Path(sys.argv[1])
    for number, section in enumerate(json.load(sys.stdin)):
        data = Data.model_validate(section)
        try:
            training_subset(data, load(data, cache_dir))
        except DataProblem as problem:
            json.dump({"number": number, "problem": str(problem)}, sys.stdout)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

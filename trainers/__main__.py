"""``torchrun … -m trainers <run directory>``: one rank, started as a process of its own."""

import os
import sys

from trainers.train import parse_arguments, run

if __name__ == "__main__":
    is_under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    sys.exit(run(parse_arguments(), parent_pid=os.getppid() if is_under_torchrun else None))

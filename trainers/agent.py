"""torchrun with forked ranks, as a command:

    python -m trainers.agent <options of torchrun> -m trainers <run directory> [options of trainers]

This is torchrun's own command line; :mod:`trainers.elastic` carries it out. Here is only what must happen before torch
is imported.
"""

import gc
import sys

if __name__ == "__main__":
    # torch brings some hundred thousand objects that live for ever. Looking for garbage among them as they come costs
    # a tenth of a run's start; looking later, in a rank, copies every page that the fork shares.
    gc.disable()
    from trainers.elastic import main

    gc.freeze()
    gc.enable()
    sys.exit(main())

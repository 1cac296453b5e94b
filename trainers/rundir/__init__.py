"""The run directory: the whole contract between controller, launcher and trainer. Standard library only.

``layout`` names every file, ``records`` gives each its typed content, ``atomic`` is the one way to write them.
"""

from trainers.rundir.layout import RunDir
from trainers.rundir.records import (
    AttemptRecord,
    Claim,
    EarlyStop,
    Manifest,
    Metric,
    Phase,
    RankFailure,
    Result,
    Status,
    StopReason,
)

__all__ = [
    "AttemptRecord",
    "Claim",
    "EarlyStop",
    "Manifest",
    "Metric",
    "Phase",
    "RankFailure",
    "Result",
    "RunDir",
    "Status",
    "StopReason",
]

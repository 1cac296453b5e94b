"""Names of the papers' tables that a report can be compared with.

Their figures are in ``orchestrator/report/papers.yaml``. The names stand here as well, so that reading an experiment
file needs nothing of the report.
"""

from __future__ import annotations

TABLES = (
    "isd/table1",
    "isd/table1_poster",
    "isd/table2",
    "isd/table4",
    "isd/table5",
    "isd/figure2",
    "sdssl/readme_copy_video",
    "msf/imagenet",
    "msf/readme",
    "msf/few_labels",
    "msf/transfer",
    "moco/readme",
    "moco_v3/readme",
    "moco_v3/transfer",
    "simclr/readme",
    "byol/readme",
    "dino/readme",
    "moco_cifar/notebook",
    "solo_learn/readme",
    "solo_learn/readme_imagenet100",
    "solo_learn/readme_imagenet",
    "lightly/benchmarks_cifar10",
    "lightly/benchmarks_imagenet",
    "supcontrast/readme",
    "bcl/readme",
    "temperature_schedules/released_results",
    "hsakd/readme_cifar100",
    "hsakd/readme_imagenet",
)

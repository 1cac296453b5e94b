"""The experiment file: reading, validating, expanding. ``load_experiment(path).cells()`` is the whole of it.

``source`` and ``scalars`` read YAML into ``nodes`` with positions; ``document`` merges ``extends`` and ``--set``;
``shape`` and ``settings`` know which settings exist and how they merge; ``schema`` types the sections beside the runs;
``axes``, ``patterns`` and ``grid`` read the rules; ``sections`` and ``cells`` expand and validate; ``labels`` names the
values of axes; ``explain`` words the problems.
"""

from orchestrator.experiment.cells import Cell, Expansion, RuleCount
from orchestrator.experiment.experiment import Experiment, load_experiment, load_site
from orchestrator.experiment.labels import label
from orchestrator.experiment.schema import Backend, Local, Ray, Report, Resources, Retries, Slurm, Tracking

__all__ = [
    "Backend",
    "Cell",
    "Expansion",
    "Experiment",
    "Local",
    "Ray",
    "Report",
    "Resources",
    "Retries",
    "RuleCount",
    "Slurm",
    "Tracking",
    "label",
    "load_experiment",
    "load_site",
]

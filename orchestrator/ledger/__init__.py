"""The controller's database of experiments, runs and jobs. The only package that knows SQL."""

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.rows import ExperimentRow, JobRow, NewRun, RunRow, Wanted

__all__ = ["ExperimentRow", "JobRow", "Ledger", "NewRun", "RunRow", "Wanted"]

"""The controller's database of experiments, runs and jobs. The only package that knows SQL."""

from orchestrator.ledger.ledger import ExperimentRow, JobRow, Ledger, NewRun, RunRow, Wanted

__all__ = ["ExperimentRow", "JobRow", "Ledger", "NewRun", "RunRow", "Wanted"]

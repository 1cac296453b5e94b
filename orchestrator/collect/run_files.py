"""What the files of a run say, read before anything is written to the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.collect import payload
from orchestrator.collect.artifacts import file_stamp
from orchestrator.collect.retrying import explained
from orchestrator.runs import RunView
from trainers.rundir import Result, atomic


class UnreadableRunError(Exception):
    """A file of the run is missing, damaged or of another version; the message names it."""


@dataclass(frozen=True)
class RunFiles:
    """One run directory.

    Attributes:
        config, provenance: of ``spec.json``.
        result_stamp: changes whenever ``result.json`` does; empty without one.
        committed: bytes of ``metrics.jsonl`` that no resume will cut back.
    """

    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    dataset: payload.DatasetInput | None
    result: Result | None
    result_stamp: str
    committed: int
    params: Mapping[str, str]
    facts: payload.Facts

    @classmethod
    def read(cls, run: RunView) -> Self:
        """Read the directory of a run.

        Raises:
            UnreadableRunError: it cannot be read.
        """
        try:
            return cls._read(run)
        except (ValueError, KeyError, OSError) as error:
            raise UnreadableRunError(explained(error)) from error

    @classmethod
    def _read(cls, run: RunView) -> Self:
        run_dir = run.run_dir
        # The stamp before the content: if the file is replaced in between, it is read again next time.
        result_stamp = file_stamp(run_dir.result_path) or ""
        spec, result = run_dir.read_spec(), run_dir.read_result()
        if spec is None:
            raise ValueError(f"{run_dir.spec_path} is missing")
        provenance = spec.get("provenance", {})
        dataset = atomic.read_json(run_dir.dataset_path)
        return cls(
            config=spec["config"],
            provenance=provenance,
            dataset=None if dataset is None else payload.dataset_input(dataset, spec["config"]["data"]["root"]),
            result=result,
            result_stamp=result_stamp,
            committed=run_dir.committed_metrics_offset(),
            params=payload.params(spec["config"], run.axes),
            facts=payload.run_facts(run, provenance, result),
        )

"""What the collector remembers of a store: a shortcut that may be lost at any time without harm."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Cursor:
    """What was brought into the store for one run, or (with an empty run id) for the experiment's parent run.

    Attributes:
        mlflow_run_id: MLflow's name for the run.
        parent_id: MLflow's name for its parent run; a cursor under another parent (the store was made anew) is void.
        seen: fingerprint of everything that the run consists of, as of the last complete collection.
        metrics_offset: bytes of ``metrics.jsonl`` that the store holds.
        metrics_tail: fingerprint of the last bytes before the offset. If the file no longer has them there, it was cut
            back further than it should have been, and the offset means nothing.
        artifacts: artifact path -> stamp of the file as last uploaded.
        result: stamp of the ``result.json`` whose metrics and model are in the store; empty before the end.
    """

    mlflow_run_id: str
    parent_id: str = ""
    seen: str = ""
    metrics_offset: int = 0
    metrics_tail: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    result: str = ""

    def to_text(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Cursor | None:
        """The cursor, or None for one that this version cannot read: it is then found again in the store."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return None


class CursorStore(Protocol):
    """Where cursors are kept, as text. The ledger is one."""

    def cursor(self, uri: str, experiment: str, run_id: str) -> str | None:
        """The text last put under these names."""

    def put_cursor(self, uri: str, experiment: str, run_id: str, cursor: str) -> None:
        """Replace the text under these names."""


@dataclass(frozen=True)
class ExperimentCursors:
    """The cursors of one experiment in one store."""

    cursors: CursorStore
    uri: str
    experiment: str

    def get(self, run_id: str) -> Cursor | None:
        """What is remembered of a run; of the parent run under an empty id."""
        text = self.cursors.cursor(self.uri, self.experiment, run_id)
        return None if text is None else Cursor.from_text(text)

    def put(self, run_id: str, cursor: Cursor) -> None:
        """Remember it in place of what was remembered before."""
        self.cursors.put_cursor(self.uri, self.experiment, run_id, cursor.to_text())

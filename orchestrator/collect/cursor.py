"""What the collector remembers of a store: a shortcut that may be lost at any time without harm."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

#: Seconds between two writes of cursors.
_GROUP_S = 1.0


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
        glance: fingerprint of the few stamps that change whenever one of the files behind ``seen`` does; empty while
            they are too young to be trusted. For the parent run: fingerprint of its runs' states.
        is_settled: of the parent run: twins of all runs that were created below it have been looked for.
        result: stamp of the ``result.json`` whose metrics and model are in the store; empty before the end.
    """

    mlflow_run_id: str
    parent_id: str = ""
    seen: str = ""
    glance: str = ""
    metrics_offset: int = 0
    metrics_tail: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    result: str = ""
    is_settled: bool = True

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
    """Where cursors are kept, as text by run id. The ledger is one."""

    def cursors(self, uri: str, experiment: str) -> Mapping[str, str]:
        """Every text of an experiment in a store."""

    def put_cursors(self, uri: str, experiment: str, cursors: Mapping[str, str]) -> None:
        """Put texts in place of those of the same run ids, all or none."""


class ExperimentCursors:
    """The cursors of one experiment in one store, read at once and written in groups. For any number of threads.

    A group that is lost with its process costs a comparison with the store, and nothing else.
    """

    def __init__(self, store: CursorStore, uri: str, experiment: str) -> None:
        self._store = store
        self._uri = uri
        self._experiment = experiment
        self._texts = dict(store.cursors(uri, experiment))
        self._unwritten: dict[str, str] = {}
        self._written_at = time.monotonic()
        self._lock = threading.Lock()

    def get(self, run_id: str) -> Cursor | None:
        """What is remembered of a run; of the parent run under an empty id."""
        text = self._texts.get(run_id)
        return None if text is None else Cursor.from_text(text)

    def put(self, run_id: str, cursor: Cursor) -> None:
        """Remember it in place of what was remembered before: at once here, and within seconds on disk."""
        text = cursor.to_text()
        with self._lock:
            self._texts[run_id] = self._unwritten[run_id] = text
            if time.monotonic() - self._written_at > _GROUP_S:
                self._write()

    def flush(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._unwritten:
            self._store.put_cursors(self._uri, self._experiment, self._unwritten)
            self._unwritten = {}
        self._written_at = time.monotonic()

"""Bringing all runs of an experiment below its parent run, also while another machine does the same.

An SQLite store has a lock and is ours alone. On a server, two machines may create the same runs, and even the parent
run, at the same moment: whoever has created something looks for twins afterwards, and brings again what had one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.collect.children import Children
from orchestrator.collect.cursor import Cursor, ExperimentCursors
from orchestrator.collect.drawings import Drawings
from orchestrator.collect.mlflow_store import MlflowStore
from orchestrator.collect.parallel import spread
from orchestrator.collect.parent import ParentRun
from orchestrator.collect.retrying import Patience
from orchestrator.collect.sending import Outcome, Sender
from orchestrator.runs import RunView

#: Runs that are brought to a server at once.
_THREADS = 4


@dataclass
class Brought:
    """What has been done so far. Of a run that was brought again, what was sent counts, and the last problem.

    Attributes:
        changed: ids of runs that had news.
        done: ids of those that were brought.
        points, artifacts: number of metric points and files sent.
        problems: run id -> one sentence, of runs that could not be collected.
    """

    changed: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    points: int = 0
    artifacts: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count what bringing one run did."""
        self.done.add(outcome.run_id)
        self.points += outcome.points
        self.artifacts += outcome.artifacts
        self.problems.pop(outcome.run_id, None)
        if outcome.problem is not None:
            self.problems[outcome.run_id] = outcome.problem


@dataclass(frozen=True)
class Rounds:
    """One pass over the runs of an experiment.

    Attributes:
        is_alone: nobody else writes into the store meanwhile.
        on_step: is called whenever a run is done.
    """

    store: MlflowStore
    cursors: ExperimentCursors
    patience: Patience
    is_alone: bool
    on_step: Callable[[Brought], None]

    def carry_out(self, parent: ParentRun, runs: Sequence[RunView]) -> Brought:
        """Open the parent run and bring what is new about the runs; again if another parent run is the one that stays.

        Raises:
            MlflowException, OSError: the store is in trouble that outlasts our patience, or refuses the login.
        """
        brought = Brought()
        parent_id, is_new = self._open(parent, runs)
        while True:
            children = Children(self.store, parent_id)
            self._bring(children, runs, brought)
            if self.is_alone or not (is_new or children.created):
                return brought
            open_id, is_new = self._open(parent, runs)
            if open_id == parent_id:
                return brought
            parent_id = open_id

    def _open(self, parent: ParentRun, runs: Sequence[RunView]) -> tuple[str, bool]:
        """The parent run, and whether it was another one until now, or none."""
        known = self.cursors.get("")
        parent_id = self.patience.call(lambda: parent.open(runs))
        return parent_id, known is None or known.mlflow_run_id != parent_id

    def _bring(self, children: Children, runs: Sequence[RunView], brought: Brought) -> None:
        """Bring the runs that have news, and once more those of which there was a twin."""
        sender = Sender(self.store, self.cursors, children, Drawings(), self.patience)
        changed = [run for run in runs if sender.has_news(run)]
        brought.changed.update(run.run_id for run in changed)
        has_new = any(not self._has_place(run, children) for run in changed)
        if has_new or not self._is_settled():
            children.look()
        if self.is_alone:
            self._count(self._sent(sender, changed), brought)
            return
        if has_new:
            self._put_settled(False)
        self._count(self._sent(sender, changed), brought)
        doubled = children.settle()
        for run_id in doubled:
            self.cursors.put(run_id, Cursor(""))
        again = [run for run in runs if run.run_id in doubled]
        brought.changed.update(doubled)
        self._count(self._sent(sender, again), brought)
        self._put_settled(True)

    def _sent(self, sender: Sender, runs: Sequence[RunView]) -> Iterator[Outcome]:
        # SQLite has one writer at a time, and what MLflow does beside writing holds the interpreter.
        threads = 1 if self.is_alone else _THREADS
        with sender.drawings.ahead([run for run in runs if sender.has_figures_to_draw(run)]):
            yield from spread(sender.bring, runs, threads, self.patience.stop)

    def _count(self, outcomes: Iterator[Outcome], brought: Brought) -> None:
        for outcome in outcomes:
            brought.add(outcome)
            self.on_step(brought)

    def _has_place(self, run: RunView, children: Children) -> bool:
        cursor = self.cursors.get(run.run_id)
        return cursor is not None and cursor.parent_id == children.parent_id

    # --- the mark that outlives a collector which is killed between creating and looking for twins --------------------

    def _is_settled(self) -> bool:
        cursor = self.cursors.get("")
        return cursor is None or cursor.is_settled

    def _put_settled(self, is_settled: bool) -> None:
        cursor = self.cursors.get("")
        if cursor is not None and cursor.is_settled != is_settled:
            self.cursors.put("", replace(cursor, is_settled=is_settled))
            self.cursors.flush()

"""Tables and the live view, sized to the terminal. Pure: values in, renderables out."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.controller import Snapshot
from orchestrator.ledger import RunRow
from orchestrator.state import RunState, count_states
from trainers.rundir import Phase, Status

STATE_STYLES: Mapping[RunState, str] = {
    RunState.PLANNED: "dim",
    RunState.SUBMITTING: "cyan",
    RunState.QUEUED: "cyan",
    RunState.RUNNING: "bold cyan",
    RunState.COMPLETED: "green",
    RunState.PREEMPTED: "yellow",
    RunState.FAILED: "bold red",
    RunState.CANCELLED: "dim yellow",
    RunState.LOST: "red",
}

_BAR_WIDTH = 12

#: Running and troubled runs are shown before waiting ones, and finished ones last, when not all fit.
_INTEREST = (
    RunState.RUNNING,
    RunState.FAILED,
    RunState.LOST,
    RunState.SUBMITTING,
    RunState.QUEUED,
    RunState.PREEMPTED,
    RunState.PLANNED,
    RunState.CANCELLED,
    RunState.COMPLETED,
)

#: States in which a run waits for its backend, which may say why.
_WAITING = (RunState.SUBMITTING, RunState.QUEUED)

#: Different reasons to wait that one line can name.
_MAX_REASONS = 3


def console() -> Console:
    """Standard output; colour and live drawing only on a terminal."""
    return Console(highlight=False)


def print_json(value: Any) -> None:
    """For scripts: one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def count_runs(number: int) -> str:
    """``1 run``, ``12 runs``."""
    return f"{number} run{'' if number == 1 else 's'}"


def summary_line(snapshot: Snapshot) -> Text:
    """Experiment, number of runs, how many in each state."""
    counts = {state: count for state, count in count_states(run.state for run in snapshot.runs).items() if count}
    line = Text.assemble((snapshot.experiment.name, "bold"), f"  {count_runs(len(snapshot.runs))}: ")
    for position, (state, count) in enumerate(counts.items()):
        line.append(", " if position else "").append(f"{count} {state}", style=STATE_STYLES[state])
    if snapshot.to_suggest:
        line.append(f"; {snapshot.to_suggest} more to be suggested", style="dim")
    return line


def status_table(snapshot: Snapshot, *, max_rows: int | None = None, now: float | None = None) -> RenderableType:
    """One row a run, in grid order; the most interesting ``max_rows`` of them if there are more."""
    shown = list(snapshot.runs)
    if max_rows is not None and len(shown) > max_rows:
        ranked = sorted(shown, key=lambda run: (_INTEREST.index(run.state), run.position))[: max(1, max_rows - 1)]
        shown = sorted(ranked, key=lambda run: run.position)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    # What is typed into the next command is never cut; on a narrow terminal the note gives way first.
    table.add_column("run", no_wrap=True, min_width=max(map(len, (run.run_id for run in shown)), default=3))
    for axis in snapshot.experiment.axes:
        longest = max(map(len, (run.axes.get(axis, "") for run in shown)), default=0)
        heading = axis.rpartition(".")[2]
        table.add_column(heading, overflow="ellipsis", no_wrap=True, min_width=min(12, max(longest, len(heading))))
    table.add_column("state", no_wrap=True, min_width=max(map(len, (run.state for run in shown)), default=5))
    table.add_column("progress", no_wrap=True, min_width=_BAR_WIDTH)
    table.add_column("", overflow="ellipsis")  # the one column that may wrap shrinks first; its texts do not wrap
    for run in shown:
        table.add_row(*_cells(run, snapshot, now if now is not None else time.time()))
    visible = {run.run_id for run in shown}
    hidden = [run for run in snapshot.runs if run.run_id not in visible]
    return Group(table, Text(_summary(hidden, snapshot.notes), style="dim")) if hidden else table


def _summary(runs: Sequence[RunRow], notes: Mapping[str, str]) -> str:
    """What is to be said of runs that have no row: how many are in each state, and why most of them wait."""
    parts = []
    for state, count in count_states(run.state for run in runs).items():
        if count:
            waiting = [run.run_id for run in runs if run.state is state] if state in _WAITING else []
            parts.append(f"{count:,} {state}{_reasons(waiting, notes)}")
    return f"… and {len(runs):,} more runs: {', '.join(parts)}"


def _reasons(run_ids: Sequence[str], notes: Mapping[str, str]) -> str:
    # A note names the job and the time too, after a comma, semicolon or bracket: only its beginning is common to many.
    reasons = Counter(re.split("[,;(]", notes[run_id])[0].strip() for run_id in run_ids if notes.get(run_id))
    if not reasons:
        return ""
    named = [f"{count:,} {reason}" for reason, count in reasons.most_common(_MAX_REASONS)]
    return f" ({'; '.join([*named, *(['…'] if len(reasons) > _MAX_REASONS else [])])})"


def _cells(run: RunRow, snapshot: Snapshot, now: float) -> list[RenderableType]:
    status = snapshot.statuses.get(run.run_id)
    style = STATE_STYLES[run.state]
    progress: RenderableType = ""
    note = run.reason
    if run.state is RunState.COMPLETED:
        progress = ProgressBar(total=1, completed=1, width=_BAR_WIDTH)
    elif status is not None:
        progress = ProgressBar(total=status.total_steps or 1, completed=status.step, width=_BAR_WIDTH)
        note = _progress_note(status, now)
    if run.state.is_active and (said := snapshot.notes.get(run.run_id)):
        note = said if run.state in _WAITING else f"{note}  {said}".strip()
    axes = [run.axes.get(axis, "") for axis in snapshot.experiment.axes]
    last = Text(note, style="dim", no_wrap=True, overflow="ellipsis")
    return [run.run_id, *axes, Text(str(run.state), style=style), progress, last]


def _progress_note(status: Status, now: float) -> str:
    if status.phase is not Phase.TRAINING or not status.total_steps:
        return str(status.phase)
    parts = [f"{status.step}/{status.total_steps}"]
    if status.images_per_s > 0:
        parts.append(f"{status.images_per_s:,.0f} img/s")
    if status.loss is not None:
        parts.append(f"loss {status.loss:.3f}")
    silence = now - status.heartbeat
    if silence > 60:
        parts.append(f"silent for {duration(silence)}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """90 -> '1m30s', 4000 -> '1h06m': two units are enough for a glance."""
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"


def plan_table(rows: Sequence[tuple[str, Mapping[str, str], str]], axes: Sequence[str]) -> Table:
    """One row a planned run: id, what its axes say, and where it is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", no_wrap=True)
    for axis in axes:
        table.add_column(axis, overflow="fold")
    table.add_column("state", no_wrap=True)
    for run_id, labels, state in rows:
        table.add_row(run_id, *[labels.get(axis, "") for axis in axes], state)
    return table

"""How far an experiment is, in the words of its parent run's page: two metrics, and the text that the page begins with.

The text has sections of ours between marks that Markdown does not show. Each is replaced by itself, so that progress,
report and what a user has written beside them leave one another alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.collect.payload import Point
from orchestrator.runs import RunView
from orchestrator.state import RunState, count_states

#: MLflow takes 8,000 characters in a tag.
MAX_NOTE = 8000
COMPLETED_METRIC = "sweep/completed"
DONE_METRIC = "sweep/percent_done"

_CUT = "\n\n… (the whole report is among the artifacts, in report/)"
_MAX_TROUBLES = 5
_MAX_REASON = 200

Section = Literal["progress", "report"]


@dataclass(frozen=True)
class Progress:
    """An experiment at one moment, from the ledger's states and the files of the runs.

    Attributes:
        counts: number of runs in each state.
        percent_done: of the training of all runs, each counting alike; 100 only when all are completed.
        time_ms: when the newest of the files that say so was written, in milliseconds since the Unix epoch, so that
            looking twice gives the same; 0 before any run began.
        completed_ms: the same of the newest result.
        troubles: run id, name and reason of the first few failed or lost runs.
    """

    counts: Mapping[RunState, int]
    percent_done: int
    time_ms: int
    completed_ms: int
    troubles: tuple[tuple[str, str, str], ...]


def progress_of(runs: Sequence[RunView]) -> Progress:
    """Look at the runs. Of those that are over only the time of the result is asked for: there may be ten thousand."""
    share, newest_ms, completed_ms = 0.0, 0, 0
    for run in runs:
        if run.state is RunState.COMPLETED:
            share += 1
            completed_ms = max(completed_ms, _changed_ms(run.run_dir.result_path))
        elif run.state in (RunState.RUNNING, RunState.PREEMPTED):
            share += _share(run)
        else:
            continue
        newest_ms = max(newest_ms, completed_ms, _changed_ms(run.run_dir.status_path))
    troubled = [run for run in runs if run.state in (RunState.FAILED, RunState.LOST)]
    troubles = tuple((run.run_id, run.name, run.reason) for run in troubled[:_MAX_TROUBLES])
    percent = int(100 * share / len(runs)) if runs else 0
    return Progress(count_states(run.state for run in runs), percent, newest_ms, completed_ms, troubles)


def _changed_ms(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns // 10**6
    except OSError:
        return 0


def _share(run: RunView) -> float:
    """Share of the steps that is done; 0 for a status that is absent or damaged."""
    try:
        status = run.run_dir.read_status()
    except (ValueError, KeyError, OSError):
        return 0.0
    return min(1.0, status.step / status.total_steps) if status is not None and status.total_steps else 0.0


def news(progress: Progress, known: Mapping[str, float], started_ms: int) -> list[Point]:
    """The points that a store which holds the values ``known`` lacks. Steps are seconds since the experiment began."""
    # Each has the time of the files that it comes from, which never runs back: MLflow's latest value is the latest.
    values = {
        COMPLETED_METRIC: (progress.counts[RunState.COMPLETED], progress.completed_ms),
        DONE_METRIC: (progress.percent_done, progress.time_ms),
    }
    return [
        Point(key, float(value), time_ms, max(0, time_ms - started_ms) // 1000)
        for key, (value, time_ms) in values.items()
        if time_ms and known.get(key) != value
    ]


def progress_text(progress: Progress) -> str:
    """Markdown: one line, since MLflow shows but the first few of a page's text unasked, and what went wrong."""
    total = sum(progress.counts.values())
    others = ", ".join(
        f"{state}: {count}" for state, count in progress.counts.items() if count and state is not RunState.COMPLETED
    )
    lines = [
        f"**{progress.counts[RunState.COMPLETED]} of {total} runs completed, {progress.percent_done} % of the training "
        "done**" + (f" ({others})" if others else "")
    ]
    for run_id, name, reason in progress.troubles:
        lines += ["", f"`{run_id}` ({name}): {_one_line(reason)}"]
    missing = progress.counts[RunState.FAILED] + progress.counts[RunState.LOST] - len(progress.troubles)
    if missing > 0:
        lines += ["", f"… and {missing} more that failed or were lost"]
    return "\n".join(lines)


def _one_line(reason: str) -> str:
    return " ".join(reason.split())[:_MAX_REASON].replace("<", "&lt;")  # which would hide what follows, as a tag


def with_section(note: str, name: Section, text: str) -> str:
    """``note`` with one section replaced, within what MLflow takes: the report is cut where there is no room.

    Args:
        note: the page's text as it is, with or without our sections; what a user has written stays below them.
        text: Markdown; empty removes the section.
    """
    sections: dict[Section, str] = {"progress": "", "report": ""}
    for known in sections:
        found = _pattern(known).search(note)
        sections[known] = found["text"] if found else ""
        note = _pattern(known).sub("", note, count=1)
    sections[name] = text
    own = note.strip()
    rest = [_marked("progress", sections["progress"]), own]
    room = MAX_NOTE - sum(len(part) + 2 for part in rest) - len(_marked("report", " ")) + 1
    report = sections["report"]
    if len(report) > room:
        kept = report[: max(0, room - len(_CUT))]
        report = kept[: kept.rfind("\n") + 1].rstrip() + _CUT
    parts = [rest[0], _marked("report", report) if room > len(_CUT) else "", own]
    return "\n\n".join(part for part in parts if part)[:MAX_NOTE]


def _marked(name: Section, text: str) -> str:
    return f"<!-- sweep:{name} -->\n{text}\n<!-- sweep:{name} end -->" if text else ""


def _pattern(name: Section) -> re.Pattern[str]:
    return re.compile(rf"<!-- sweep:{name} -->\n(?P<text>.*?)\n<!-- sweep:{name} end -->", re.DOTALL)

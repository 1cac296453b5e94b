"""The parent run's page: what progress is, what of it is news, and texts that share one description."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.collect.progress import MAX_NOTE, news, progress_of, progress_text, with_section
from orchestrator.runs import RunView
from orchestrator.state import RunState
from trainers.rundir import Phase, RunDir, Status, atomic


def run(folder: Path, number: int, state: RunState, *, step: int = 0, reason: str = "") -> RunView:
    run_dir = RunDir(folder / str(number))
    run_dir.path.mkdir()
    if state is RunState.COMPLETED:
        run_dir.result_path.write_text("{}")
        os.utime(run_dir.result_path, (1000 + number, 1000 + number))
    elif step:
        status = Status(phase=Phase.TRAINING, attempt=1, step=step, total_steps=100, heartbeat=1.0)
        atomic.write_json(run_dir.status_path, status.to_json())
        os.utime(run_dir.status_path, (2000.5, 2000.5))
    return RunView(f"{number:012x}", number, {"seed": str(number)}, state, reason, "local", "1", 1, run_dir)


def test_progress_counts_each_run_alike_and_is_100_only_when_all_is_done(tmp_path: Path) -> None:
    completed = [run(tmp_path, number, RunState.COMPLETED) for number in range(199)]
    working = run(tmp_path, 200, RunState.RUNNING, step=99)
    found = progress_of([*completed, working])
    assert (found.percent_done, found.time_ms, found.completed_ms) == (99, 2_000_500, 1_198_000)
    assert progress_of(completed).percent_done == 100
    assert progress_of([run(tmp_path, 300, RunState.PLANNED)]).time_ms == 0


def test_a_damaged_status_is_no_progress(tmp_path: Path) -> None:
    working = run(tmp_path, 0, RunState.RUNNING, step=50)
    working.run_dir.status_path.write_text('{"phase": "dancing"}')
    assert progress_of([working]).percent_done == 0


def test_only_what_has_changed_is_news(tmp_path: Path) -> None:
    found = progress_of([run(tmp_path, 7, RunState.COMPLETED), run(tmp_path, 8, RunState.PLANNED)])
    points = news(found, {}, started_ms=1_000_000)
    assert [(point.key, point.value, point.timestamp_ms, point.step) for point in points] == [
        ("sweep/completed", 1.0, 1_007_000, 7),
        ("sweep/percent_done", 50.0, 1_007_000, 7),
    ]
    assert not news(found, {point.key: point.value for point in points}, started_ms=0)


def test_the_text_names_what_went_wrong(tmp_path: Path) -> None:
    failed = [run(tmp_path, n, RunState.FAILED, reason="loss is\n<nan> " + "x" * 500) for n in range(9)]
    text = progress_text(progress_of([*failed, run(tmp_path, 10, RunState.COMPLETED)]))
    assert text.splitlines()[0] == "**1 of 10 runs completed, 10 % of the training done** (failed: 9)"
    assert "`000000000000` (seed=0): loss is &lt;nan> x" in text
    assert "… and 4 more" in text


def test_progress_and_report_replace_themselves_alone() -> None:
    note = with_section("my own words", "progress", "half")
    note = with_section(note, "report", "| a |")
    note = with_section(note, "progress", "all")
    assert [note.index(word) for word in ("all", "| a |", "my own words")] == sorted(
        note.index(word) for word in ("all", "| a |", "my own words")
    )
    assert "half" not in note
    assert with_section(with_section(note, "report", ""), "progress", "") == "my own words"


@given(st.text(max_size=9000), st.text(max_size=300), st.integers(0, 12_000))
def test_the_text_never_exceeds_what_mlflow_takes(own: str, progress: str, length: int) -> None:
    report = "\n".join(f"| line {number} |" for number in range(length // 10))
    note = with_section(with_section(own, "progress", progress.strip()), "report", report)
    assert len(note) <= MAX_NOTE
    if len(own) + len(progress) + len(report) < MAX_NOTE - 200:
        assert report in note


@pytest.mark.parametrize("spare", range(1, 8))
def test_a_report_that_just_fits_is_whole(spare: int) -> None:
    empty = len(with_section("", "report", "x")) - 1
    report = "y" * 10 + "\n" + "x" * (MAX_NOTE - empty - 11 - spare)
    note = with_section("", "report", report)
    assert len(note) <= MAX_NOTE
    assert (report in note) != ("the whole report is among the artifacts" in note)
    assert (report in note) == (spare >= 4)  # what separates sections is set aside

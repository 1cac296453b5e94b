"""Reading what was measured during the training, and its mean and spread over runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.figures import curves
from orchestrator.figures.curves import Series, band, read_series
from tests.unit.orchestrator.figures.fabricated import Fabricated, line
from trainers.rundir import RunDir

Points = list[tuple[float, float]]


def series(points: Points) -> Series:
    return Series(np.array([epoch for epoch, _ in points]), np.array([value for _, value in points]))


def metrics_file(run_dir: RunDir, *lines: dict[str, object], tail: str = "") -> None:
    """A finished run's metrics file with just these lines, all of which count."""
    run_dir.metrics_path.write_text("".join(json.dumps(item) + "\n" for item in lines) + tail)
    result = json.loads(run_dir.result_path.read_text())
    run_dir.result_path.write_text(json.dumps(result | {"metrics_offset": run_dir.metrics_path.stat().st_size}))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_only_what_is_wanted_is_read_and_the_later_of_two_values_counts(tmp_path: Path) -> None:
    run_dir = Fabricated().write(tmp_path / "run")
    metrics_file(
        run_dir,
        line(1.0, {"train/loss": 3.0, "train/lr": 0.1}),
        line(2.0, {"train/loss": 2.0}),
        line(2.0, {"eval/knn/top1": 40.0}),
        line(1.5, {"train/loss": 2.6}),  # a damaged checkpoint: measured again, behind what is there
        line(2.0, {"train/loss": 2.1}),
    )
    found = read_series(run_dir, lambda name: name != "train/lr")
    assert set(found) == {"train/loss", "eval/knn/top1"}
    assert found["train/loss"].epochs.tolist() == [1.0, 1.5, 2.0]
    assert found["train/loss"].values.tolist() == [3.0, 2.6, 2.1]


def test_what_a_resume_may_cut_back_is_left_out(tmp_path: Path) -> None:
    run_dir = Fabricated(is_finished=False, epochs=2).write(tmp_path / "run")
    with open(run_dir.metrics_path, "a") as file:
        file.write(json.dumps(line(3.0, {"train/loss": 0.0})) + "\n")
    assert read_series(run_dir, lambda name: name == "train/loss")["train/loss"].epochs.tolist() == [0.5, 1.0, 1.5, 2.0]


def test_a_run_that_has_not_begun_has_no_series(tmp_path: Path) -> None:
    assert read_series(RunDir(tmp_path), lambda name: True) == {}


def test_lines_that_lie_across_blocks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = Fabricated(epochs=20).write(tmp_path / "run")
    whole = read_series(run_dir, lambda name: True)
    assert len(whole["train/loss"].epochs) == 40
    for size in (1, 7, 100, 101):
        monkeypatch.setattr(curves, "_BLOCK", size)
        in_blocks = read_series(run_dir, lambda name: True)
        assert {name: item.values.tolist() for name, item in in_blocks.items()} == {
            name: item.values.tolist() for name, item in whole.items()
        }


@pytest.mark.parametrize("damage", ["{\n", "[1, 2]\n", '{"step": 1}\n', '{"epoch": 1, "metrics": [1]}\n'])
def test_a_damaged_line_names_the_file(tmp_path: Path, damage: str) -> None:
    run_dir = Fabricated().write(tmp_path / "run")
    metrics_file(run_dir, line(1.0, {"train/loss": 1.0}), tail=damage)
    with pytest.raises(ValueError, match=r"run/metrics\.jsonl: a line is damaged"):
        read_series(run_dir, lambda name: True)


# --- bands ------------------------------------------------------------------------------------------------------------


def test_runs_that_were_measured_together_are_compared_epoch_by_epoch() -> None:
    long = series([(1, 10.0), (2, 20.0), (3, 30.0)])
    short = series([(1, 12.0), (2, 26.0)])  # has not got so far
    found = band([short, long], most=10)
    assert found.x.tolist() == [1, 2, 3]
    assert found.mean.tolist() == [11.0, 23.0, 30.0]
    np.testing.assert_allclose(found.std, [2**0.5, 18**0.5, np.nan])


def test_long_records_are_means_of_equal_stretches() -> None:
    run = series([(epoch / 100, float(epoch)) for epoch in range(1, 1001)])
    found = band([run], most=10)
    assert found.x.tolist() == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5])
    assert found.mean.tolist() == pytest.approx([50.5 + 100 * stretch for stretch in range(10)])
    assert np.isnan(found.std).all()


def test_runs_that_were_measured_at_other_times_meet_in_stretches() -> None:
    found = band([series([(1, 1.0), (2, 2.0)]), series([(0.9, 3.0), (1.9, 4.0)])], most=100)
    assert found.x.tolist() == pytest.approx([0.5, 1.5])
    assert found.mean.tolist() == pytest.approx([2.0, 3.0])


RECORDS = st.lists(
    st.dictionaries(st.integers(1, 400), st.floats(-1e3, 1e3), min_size=1, max_size=60), min_size=1, max_size=4
)


@given(records=RECORDS, most=st.integers(1, 50))
def test_a_band_stays_within_what_was_measured(records: list[dict[int, float]], most: int) -> None:
    runs = [series(sorted((epoch / 4, value) for epoch, value in record.items())) for record in records]
    found = band(runs, most)
    values = [value for record in records for value in record.values()]
    assert 1 <= len(found.x) <= most
    assert (np.diff(found.x) > 0).all()
    assert found.x[0] >= 0
    assert found.x[-1] <= max(max(record) for record in records) / 4
    assert (found.mean >= min(values) - 1e-9).all()
    assert (found.mean <= max(values) + 1e-9).all()
    if len(runs) == 1:
        assert np.isnan(found.std).all()

"""Sampled axes: which runs a search stands for, and what a user is told about one that cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.experiment import Cell, load_experiment
from orchestrator.experiment.search import Distribution, Exhausted, cell_key, draw, samples


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cells(text: str, *overrides: str) -> list[Cell]:
    Path("x.yaml").write_text(f"name: x\n{text}")
    return load_experiment("x.yaml", overrides, {}).cells()


def error(text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        cells(text, *overrides)
    return str(caught.value)


SPACE = "search: {space: {train.learning_rate: {loguniform: [0.01, 1.0]}}, samples: 3}\n"
RAY = "backend: ray\nbase: {evaluate: {knn: {every_epochs: 5}}, train: {epochs: 50}}\n"


class TestDistribution:
    @pytest.mark.parametrize(
        ("written", "share", "value"),
        [
            ({"uniform": [0, 2]}, 0.25, 0.5),
            ({"uniform": [0.0, 1.0]}, 1 / 3, 0.3333),
            ({"uniform": [0.33333, 0.33334]}, 0.9, 0.33333),  # rounded, but never out of the bounds
            ({"loguniform": [0.01, 1.0]}, 0.5, 0.1),
            ({"loguniform": [0.01, 1.0]}, 0.0, 0.01),
            ({"randint": [3, 6]}, 0.999, 5),
            ({"randint": [3, 6]}, 0.0, 3),
            ({"choice": ["cosine", "step"]}, 0.5, "step"),
        ],
    )
    def test_values(self, written: dict[str, list[object]], share: float, value: object) -> None:
        found = Distribution.of(written).at(share)
        assert found == pytest.approx(value) if isinstance(value, float) else found == value

    def test_ends_bound_every_value(self) -> None:
        for written in ({"uniform": [-1, 2.5]}, {"loguniform": [1e-4, 3]}, {"randint": [1, 9]}):
            distribution = Distribution.of(written)
            values = [distribution.at(number / 1000) for number in range(1000)]
            low, high = distribution.ends
            assert low <= min(values) and max(values) <= high  # type: ignore[type-var, operator]


AB = {"a": Distribution.of({"uniform": [0, 1]}), "b": Distribution.of({"choice": [1, 2, 3]})}


class TestSampling:
    def test_more_samples_begin_with_the_same_ones(self) -> None:
        few, many = (list(samples(AB, 7, "cell", count)) for count in (5, 50))
        assert many[:5] == few
        assert len({tuple(values.values()) for values in many}) == 50

    def test_an_axis_does_not_change_what_another_draws(self) -> None:
        alone = draw({"a": AB["a"]}, 7, "cell", 3)
        assert draw(AB, 7, "cell", 3)["a"] == alone["a"]

    def test_seed_cell_and_number_change_everything(self) -> None:
        point = draw(AB, 0, "cell", 0)["a"]
        others = [draw(AB, *other)["a"] for other in ((1, "cell", 0), (0, "other", 0), (0, "cell", 1))]
        assert point not in others

    def test_a_space_with_too_few_points(self) -> None:
        space = {"b": Distribution.of({"choice": [1, 2, 3]})}
        assert sorted(values["b"] for values in samples(space, 0, "", 3)) == [1, 2, 3]  # type: ignore[type-var]
        with pytest.raises(Exhausted, match="more than 3 different points"):
            list(samples(space, 0, "", 4))

    def test_the_spelling_of_a_cell_does_not_matter(self) -> None:
        assert cell_key({"a": {"x": 1.0, "y": [2]}, "b": "c"}) == cell_key({"b": "c", "a": {"y": [2.0], "x": 1}})


class TestExpansion:
    def test_every_cell_of_the_grid_has_samples_of_its_own(self) -> None:
        runs = cells("grid: {method: [moco_v2, isd]}\n" + SPACE)
        assert [(run.axes["method"], run.sample and (run.sample.cell, run.sample.number)) for run in runs] == [
            *(("moco_v2", (0, number)) for number in range(3)),
            *(("isd", (1, number)) for number in range(3)),
        ]
        assert len({run.config.train.learning_rate for run in runs}) == 6
        assert runs[0].title == f"method=moco_v2 train.learning_rate={runs[0].config.train.learning_rate:g}"

    def test_samples_stay_when_the_grid_grows(self) -> None:
        before = {run.run_id for run in cells("grid: {method: [isd]}\n" + SPACE)}
        after = {run.run_id for run in cells("grid: {method: [moco_v2, isd], seed: [0, 1]}\n" + SPACE)}
        assert before < after

    def test_seeds_share_their_samples(self) -> None:
        runs = cells("grid: {seed: [0, 1, 2]}\n" + SPACE)
        rates = [run.config.train.learning_rate for run in runs]
        assert rates[:3] == rates[3:6] == rates[6:]
        assert len({run.run_id for run in runs}) == 9

    def test_included_cells_are_sampled_too(self) -> None:
        runs = cells("include: [{method: isd}, {method: byol}]\n" + SPACE)
        assert [run.config.method.name for run in runs] == ["isd"] * 3 + ["byol"] * 3

    def test_a_value_that_is_set_is_not_sampled(self) -> None:
        assert [run.sample for run in cells(SPACE, "train.learning_rate=0.5")] == [None]

    def test_what_optuna_will_suggest_is_not_known_beforehand(self) -> None:
        search = SPACE.replace("samples: 3", "samples: 30, sampler: optuna, startup: 4")
        random, suggested = cells(SPACE.replace("3", "30")), cells(search + "backend: ray\n")
        assert [run.run_id for run in suggested] == [run.run_id for run in random[:4]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search: {samples: 3}\n", "x.yaml:2:9: search.space is missing"),
        ("search: {space: {}}\n", "x.yaml:2:17: search.space={}"),
        (
            "search: {space: {train.learning_rat: {uniform: [0, 1]}}}\n",
            "x.yaml:2:18: the axis train.learning_rat is not a setting of a run; did you mean train.learning_rate?",
        ),
        (
            "search: {space: {train.learning_rate: {normal: [0, 1]}}}\n",
            "x.yaml:2:39: search.space.train.learning_rate: normal is no distribution; write one of {uniform:",
        ),
        (
            "search: {space: {train.learning_rate: 0.1}}\n",
            "x.yaml:2:39: search.space.train.learning_rate: what is written is no distribution; write one of",
        ),
        (
            "search: {space: {train.learning_rate: {loguniform: [0, 1]}}}\n",
            "x.yaml:2:39: search.space.train.learning_rate: loguniform takes bounds above 0, and 0 is not",
        ),
        (
            "search: {space: {train.learning_rate: {uniform: [1, 0.5]}}}\n",
            "x.yaml:2:39: search.space.train.learning_rate: uniform takes a low bound below the high one",
        ),
        (
            "search: {space: {train.epochs: {uniform: [1, 50]}}, samples: 2}\n",
            "is a number, where a whole number is expected",
        ),
        (
            "search: {space: {train.momentum: {uniform: [0, 1]}}}\n",
            "x.yaml:2:18: the axis train.momentum is not a setting of a run",
        ),
        (
            "search: {space: {method: {choice: [isd, byol]}}}\n",
            "x.yaml:2:18: method takes more than a number or a word and cannot be sampled; make it an axis of grid",
        ),
        (
            "grid: {train.learning_rate: [0.1]}\n" + SPACE,
            "x.yaml:3:18: train.learning_rate is an axis already, at x.yaml:2:8; keep one of them",
        ),
        (
            "search: {space: {runtime.workers: {randint: [0, 4]}}}\n",
            "x.yaml:2:18: runtime.workers changes no number of a run; it cannot be sampled",
        ),
        (
            "search: {space: {seed: {randint: [0, 4]}}}\n",
            "x.yaml:2:18: seed cannot be sampled, because samples are compared over seeds",
        ),
        (
            "search: {space: {train.epochs: {randint: [10, 12]}}, samples: 3}\n",
            "x.yaml:2:9: search.samples=3: the space has hardly more than 2 different points",
        ),
        # The end of a range is looked at, whatever is sampled.
        (
            "search: {space: {train.learning_rate: {uniform: [-0.00001, 1]}}, samples: 1}\n",
            "x.yaml:2:39: train.learning_rate=-1e-05 is out of range",
        ),
        (
            SPACE.replace("3}", "3, sampler: optuna}"),
            "x.yaml:2:88: search.sampler=optuna is carried out by Ray Tune, and the backend is local; use backend ray",
        ),
        (
            SPACE.replace("3}", "3, stop: median}"),
            "x.yaml:2:85: search.stop=median is carried out by Ray Tune, and the backend is local; use backend ray",
        ),
        (
            SPACE.replace("3}", "3, stop: hyperband}"),
            "search.stop=hyperband is not known (known: asha, median)",
        ),
        (
            SPACE.replace("3}", "3, stop: asha}") + "backend: ray\nbase: {train: {epochs: 50}}\n",
            "search.stop=asha judges runs by eval/knn/top1, which is not measured before their end",
        ),
        (
            SPACE.replace("3}", "3, stop: {name: asha, grace_epochs: 50}}") + RAY,
            "x.yaml:4:60: search.stop.grace_epochs=50 leaves nothing to stop of train.epochs=50",
        ),
    ],
)
def test_problems(text: str, expected: str) -> None:
    assert expected in error(text)


def test_a_stop_on_ray_is_valid_and_can_be_left_out_elsewhere() -> None:
    search = SPACE.replace("3}", "3, stop: {grace_epochs: 5}}") + RAY
    stopping, plain = cells(search), cells(search, "backend=local", "search.stop=null")
    assert [run.run_id for run in stopping] == [run.run_id for run in plain]

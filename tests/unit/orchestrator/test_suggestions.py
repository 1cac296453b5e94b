"""Suggested runs and early ends: who decides them, and how they come into the ledger once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray.manifest import Manifest, TrialOptions
from orchestrator.backends.ray.searching import StudyScheduler, SuggestingQueue, search_of, suggest
from orchestrator.collect.payload import run_facts
from orchestrator.controller import Controller, Snapshot
from orchestrator.experiment import load_experiment
from orchestrator.ledger import Ledger, Wanted
from orchestrator.report.reading import build_report
from orchestrator.report.wording import cell_text
from orchestrator.retry import RetryBudgets
from orchestrator.runs import ExperimentView, ReportOptions, RunView
from orchestrator.state import JobState, RunState
from orchestrator.studies import StudyDir, Suggestion, search_section, studies_of
from orchestrator.submission import submit
from orchestrator.workspace import Workspace
from tests.fakes import FakeClock, FakeScheduler
from trainers.rundir import AttemptRecord, EarlyStop, Metric, Result, RunDir, atomic

FILE = """
name: found
base:
  train: {epochs: 9, batch_size: 64}
  method: {name: moco_v2, queue_size: 128}
  evaluate: {knn: {every_epochs: 1}}
search:
  space: {train.learning_rate: {loguniform: [0.001, 1]}, train.weight_decay: {uniform: [0, 0.1]}}
  samples: 5
  sampler: optuna
  startup: 3
backend: ray
"""
ASHA = ("search.sampler=random", "search.stop={name: asha, grace_epochs: 1, reduction_factor: 2}")
MEDIAN = ("search.sampler=random", "search.stop={name: median, grace_epochs: 2, min_samples: 2}")


class Site:
    """A workspace with a scheduler that stands for a Ray cluster."""

    def __init__(self, path: Path) -> None:
        self.workspace = Workspace(path)
        self.workspace.runs_dir.mkdir(parents=True)
        self.clock = FakeClock()
        self.scheduler = FakeScheduler()
        self.scheduler.name = "ray"
        (path / "found.yaml").write_text(FILE)
        self.ledger = Ledger(self.workspace.ledger_path, self.clock)

    @property
    def controller(self) -> Controller:
        return Controller(self.ledger, self.workspace, clock=self.clock, backends={"ray": self.scheduler})

    def submit(self, *overrides: str) -> None:
        submit(load_experiment(self.workspace.path / "found.yaml", overrides), self.controller)

    def step(self) -> Snapshot:
        return self.controller.step("found")

    def study_dir(self, *overrides: str) -> StudyDir:
        (study,) = studies_of(load_experiment(self.workspace.path / "found.yaml", overrides))
        return StudyDir(study, self.workspace.path)

    def manifest(self, *overrides: str) -> Manifest:
        """What a driver of these runs is given."""
        experiment = load_experiment(self.workspace.path / "found.yaml", overrides)
        run_ids = [cell.run_id for cell in experiment.cells()]
        section = experiment.options.model_dump(mode="json")["search"]
        return Manifest(
            workspace=self.workspace.path,
            experiment="found",
            submission="0123456789ab",
            namespace=None,
            options=TrialOptions(),
            budgets=RetryBudgets({}, 3),
            shapes=dict.fromkeys(run_ids, JobShape()),
            search=search_section(section, studies_of(experiment), run_ids, self.workspace.path),
        )

    def token_of(self, run_id: str) -> str:
        return next(token for token in self.scheduler.jobs if token.startswith(run_id))

    def finish(self, run_id: str, value: float = 50.0) -> None:
        run_dir = self.workspace.run_dir(run_id)
        protocols = (run_dir.read_spec() or {})["protocols"]
        metrics = {"eval/knn/top1": value}
        result = Result(run_id=run_id, steps=10, epochs=9, metrics=metrics, protocols=protocols)
        atomic.write_json(run_dir.result_path, result.to_json())
        self.scheduler.jobs[self.token_of(run_id)] = JobState.ENDED


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def evaluate(run_dir: RunDir, *values: float) -> None:
    """Write an evaluation for each epoch."""
    with run_dir.metrics_path.open("a") as file:
        for epoch, value in enumerate(values, 1):
            line = Metric(step=10 * epoch, epoch=float(epoch), time=0.0, metrics={"eval/knn/top1": value})
            file.write(json.dumps(line.to_json()) + "\n")


def begin_attempt(run_dir: RunDir, token: str) -> None:
    number = len(run_dir.attempt_numbers()) + 1
    run_dir.attempt_dir(number).mkdir(parents=True)
    record = AttemptRecord(number=number, token=token, backend="ray", job_id="x", ended=1.0, cause="preempted")
    atomic.write_json(run_dir.attempt_path(number), record.to_json())


class TestSuggesting:
    @pytest.fixture
    def study_dir(self, site: Site) -> StudyDir:
        site.submit()
        site.step()
        for value, sample in enumerate(site.study_dir().study.known):
            site.finish(sample.run_id, float(value))
        return site.study_dir()

    def test_a_number_is_suggested_once_whoever_asks(self, study_dir: StudyDir) -> None:
        first = suggest(study_dir, 3, lambda run_id: f"{run_id}-mine")
        assert suggest(study_dir, 3, lambda run_id: f"{run_id}-other") == first
        assert study_dir.suggestions() == [first]
        assert first.token == f"{first.run_id}-mine"

    def test_a_suggestion_is_a_valid_run_of_the_study(self, study_dir: StudyDir) -> None:
        found = [suggest(study_dir, number) for number in (3, 4)]
        assert len({run.run_id for run in (*study_dir.study.known, *found)}) == 5
        for suggestion in found:
            rate = suggestion.config["train"]["learning_rate"]
            assert rate == suggestion.values["train.learning_rate"]
            assert 0.001 <= rate <= 1
            assert rate == float(f"{rate:.4g}")

    def test_what_is_suggested_goes_by_what_was_found(self, study_dir: StudyDir, tmp_path: Path) -> None:
        moved = replace(study_dir, study=replace(study_dir.study, mode="min"))
        number = study_dir.study.numbers[0]
        first = suggest(study_dir, number).values
        (study_dir.path / f"{number}.json").unlink()
        assert suggest(study_dir, number).values == first  # the same evidence, the same suggestion
        (study_dir.path / f"{number}.json").unlink()
        assert suggest(moved, number).values != first

    def test_a_space_without_another_valid_run_gets_none(self, study_dir: StudyDir) -> None:
        first = study_dir.study.known[0]
        space = {axis: {"choice": [value]} for axis, value in first.values.items()}
        found = suggest(replace(study_dir, study=replace(study_dir.study, space=space, known=(first,))), 3)
        assert found.run_id == ""
        assert found.why == "every suggestion was a run that is there already"


class TestQueue:
    def test_a_driver_suggests_when_the_known_runs_are_over_and_never_too_many(self, site: Site) -> None:
        site.submit()
        site.step()
        queue = SuggestingQueue(site.manifest(), lambda message: None)
        known = [sample.run_id for sample in site.study_dir().study.known]
        handed: list[str] = []
        for number in range(3):
            queue.pending.clear()
            handed.append(queue.suggest(str(number))["run_id"])
        assert handed == known
        queue.pending.clear()
        assert queue.suggest("none yet") is None
        for number in range(3):
            site.finish(known[number], float(number))
            queue.on_trial_complete(str(number))
        queue = SuggestingQueue(site.manifest(), lambda message: None)  # it was killed, and begins again
        suggested = []
        for number in (3, 4):
            queue._looked_at, queue.pending = -10.0, queue.pending.__class__()
            suggested.append(queue.suggest(str(number))["run_id"])
        assert all(site.workspace.run_dir(run_id).read_spec() for run_id in suggested)
        queue._looked_at = -10.0
        assert queue.suggest("one too many") == queue.FINISHED
        again = SuggestingQueue(site.manifest(), lambda message: None)  # nothing of theirs was begun: they come again
        assert list(again.waiting)[3:] == suggested

    def test_a_stopped_experiment_gets_no_suggestion(self, site: Site) -> None:
        site.submit()
        site.step()
        for sample in site.study_dir().study.known:
            site.finish(sample.run_id)
        site.study_dir().pause()
        queue = SuggestingQueue(site.manifest(), lambda message: None)
        assert queue.suggest("x") == queue.FINISHED
        assert site.study_dir().suggestions() == []


class TestAdoption:
    def test_a_suggested_run_comes_into_the_ledger_once_with_its_job(self, site: Site) -> None:
        site.submit()
        assert site.step().to_suggest == 2
        known = [sample.run_id for sample in site.study_dir().study.known]
        for run_id in known:
            site.finish(run_id)
        found = suggest(site.study_dir(), 3, lambda run_id: f"{run_id}-driver")
        site.scheduler.jobs[found.token] = JobState.RUNNING
        for _ in range(2):
            snapshot = site.step()
        assert [run.run_id for run in snapshot.runs] == [*known, found.run_id]
        assert snapshot.runs[-1].state is RunState.RUNNING
        assert snapshot.runs[-1].position == 3
        assert snapshot.runs[-1].axes["train.learning_rate"] == f"{found.values['train.learning_rate']:g}"
        assert snapshot.to_suggest == 1
        assert [job.token for job in site.ledger.jobs_of(found.run_id)] == [found.token]
        site.submit()  # the file does not name it, and it stays
        assert len(site.step().runs) == 4

    def test_a_study_that_lost_its_driver_goes_on_when_that_is_certain(self, site: Site) -> None:
        site.submit()
        site.step()
        for sample in site.study_dir().study.known:
            site.finish(sample.run_id)
        snapshot = site.step()
        assert not snapshot.is_settled
        assert site.study_dir().suggestions() == []
        site.clock.now += 61
        for _ in range(3):
            snapshot = site.step()
        (found,) = site.study_dir().suggestions()
        assert snapshot.runs[-1].run_id == found.run_id
        assert snapshot.runs[-1].state is RunState.QUEUED
        assert site.token_of(found.run_id)

    def test_an_experiment_is_settled_when_nothing_is_left_to_suggest(self, site: Site) -> None:
        site.submit()
        site.step()
        for sample in site.study_dir().study.known:
            site.finish(sample.run_id)
        for number in (3, 4):
            site.study_dir().add(Suggestion(number, "", why="nothing valid"))
        assert site.step().is_settled

    def test_stopping_pauses_studies_and_going_on_takes_it_back(self, site: Site) -> None:
        site.submit()
        site.step()
        site.ledger.want("found", Wanted.PAUSED)
        site.step()
        assert site.study_dir().is_paused
        site.ledger.want("found", Wanted.RUNNING)
        site.step()
        assert not site.study_dir().is_paused


def scheduler_of(site: Site, *overrides: str) -> StudyScheduler:
    _, scheduler, _ = search_of(site.manifest(*overrides), lambda message: None)
    assert isinstance(scheduler, StudyScheduler)
    return scheduler


def report(scheduler: StudyScheduler, run_id: str, epoch: float, value: float) -> Any:
    trial = SimpleNamespace(config={"run_id": run_id})
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "eval/knn/top1": value})


class TestEarlyEnds:
    def test_asha_marks_a_run_before_it_stops_its_trial(self, site: Site) -> None:
        site.submit(*ASHA)
        site.step()
        good, bad, *_ = (run.run_id for run in site.ledger.runs("found"))
        scheduler = scheduler_of(site, *ASHA)
        run_dir = site.workspace.run_dir(bad)
        evaluate(run_dir, 10.0)
        assert report(scheduler, good, 1.0, 40.0) == "CONTINUE"
        assert report(scheduler, bad, 1.0, 10.0) == "STOP"
        token = f"{bad}-0123456789ab"
        assert run_dir.stop_path(token).exists()
        begin_attempt(run_dir, token)
        stop = run_dir.read_early_stop()
        assert stop is not None
        assert stop.sentence == "stopped early at epoch 1 by asha (eval/knn/top1 10)"
        assert stop.step == 10

    @pytest.mark.parametrize(("rule", "epoch"), [(ASHA, 1.0), (MEDIAN, 2.0)])
    def test_a_driver_that_begins_again_knows_what_others_had_reached(
        self, site: Site, rule: tuple[str, ...], epoch: float
    ) -> None:
        site.submit(*rule)
        site.step()
        first, second, third, *_ = (run.run_id for run in site.ledger.runs("found"))
        for run_id in (first, second):
            evaluate(site.workspace.run_dir(run_id), 40.0, 41.0)
            site.finish(run_id)
        evaluate(site.workspace.run_dir(third), 10.0, 10.0)
        assert report(scheduler_of(site, *rule), third, epoch, 10.0) == "STOP"

    def test_what_is_told_twice_counts_once_and_the_end_is_no_early_end(self, site: Site) -> None:
        site.submit(*ASHA)
        site.step()
        good, bad, *_ = (run.run_id for run in site.ledger.runs("found"))
        scheduler = scheduler_of(site, *ASHA)
        assert [report(scheduler, good, epoch, 40.0) for epoch in (1.0, 1.0, 9.0)] == ["CONTINUE"] * 3
        assert report(scheduler, bad, 9.0, 10.0) == "CONTINUE"

    def test_a_run_that_was_stopped_early_is_completed_until_it_is_wanted_in_full(self, site: Site) -> None:
        site.submit(*ASHA)
        site.step()
        run_id = site.ledger.runs("found")[0].run_id
        token, run_dir = site.token_of(run_id), site.workspace.run_dir(run_id)
        begin_attempt(run_dir, token)
        stop = EarlyStop(token=token, rule="asha", metric="eval/knn/top1", value=12.3456, step=10, epoch=1.0)
        run_dir.stop_early(stop)
        site.scheduler.jobs[token] = JobState.ENDED
        run = site.step().runs[0]
        assert (run.state, run.reason) == (
            RunState.COMPLETED,
            "stopped early at epoch 1 by asha (eval/knn/top1 12.35)",
        )
        site.submit(*ASHA, "evaluate.knn.k=[1]")  # more evaluation is for runs that have an end
        assert site.ledger.runs("found")[0].state is RunState.COMPLETED
        site.submit("search.sampler=random")
        assert site.ledger.runs("found")[0].state is RunState.PLANNED
        site.step()
        assert site.ledger.jobs_of(run_id)[-1].token != token
        assert len(site.ledger.jobs_of(run_id)) == 2

    def test_report_and_store_mark_early_ends(self, site: Site) -> None:
        site.submit(*ASHA)
        site.step()
        early, whole, *_ = (run.run_id for run in site.ledger.runs("found"))
        token, run_dir = site.token_of(early), site.workspace.run_dir(early)
        evaluate(run_dir, 20.0, 30.0)
        begin_attempt(run_dir, token)
        run_dir.stop_early(EarlyStop(token=token, rule="asha", metric="eval/knn/top1", value=30.0, step=20, epoch=2.0))
        site.scheduler.jobs[token] = JobState.ENDED
        site.finish(whole, 50.0)
        site.step()
        views = [
            RunView(
                run.run_id, number, run.axes, run.state, run.reason, "ray", "x", 1, site.workspace.run_dir(run.run_id)
            )
            for number, run in enumerate(site.ledger.runs("found")[:2])
        ]
        view = ExperimentView("found", "", Path("found.yaml"), tuple(views[0].axes))
        found = build_report(view, views)
        assert [cell_text(row.cells[0], "eval/knn/top1") for row in found.table.rows] == ["30.0 (1) †", "50.0 (1)"]
        together = ReportOptions(over=("train.learning_rate", "train.weight_decay"))
        (row,) = build_report(replace(view, report=together), views).table.rows
        assert cell_text(row.cells[0], "eval/knn/top1") == "50.0 (1 of 2)"
        assert (found.completed, found.ended_early) == (1, 1)
        tags = [run_facts(run, {}, None).tags.get("sweep.stopped_early") for run in views]
        assert tags == ["stopped early at epoch 2 by asha (eval/knn/top1 30)", None]

    def test_a_lost_ledger_knows_early_ends_again(self, site: Site) -> None:
        site.submit(*ASHA)
        site.step()
        run_id = site.ledger.runs("found")[0].run_id
        token, run_dir = site.token_of(run_id), site.workspace.run_dir(run_id)
        begin_attempt(run_dir, token)
        run_dir.stop_early(EarlyStop(token=token, rule="asha", metric="m", value=1.0, step=1, epoch=1.0))
        site.workspace.ledger_path.unlink()
        site.ledger = Ledger(site.workspace.ledger_path, site.clock)
        site.submit(*ASHA)
        assert site.ledger.runs("found")[0].state is RunState.COMPLETED

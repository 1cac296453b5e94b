"""A collector is killed at any of its requests to a tracking server; the next one completes what it left."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from orchestrator.collect import cursor
from orchestrator.runs import TrackingOptions
from tests.integration.tracking.fabricated import Fabricated, fabricate, nameless
from tests.integration.tracking.troublesome import Fate, Request, proxy


@dataclass
class Executioner:
    """Kills a collector at its ``number``-th request: before the server hears of it, or once it has carried it out."""

    victim: ForkProcess | None = None
    number: int = 0
    is_carried_out: bool = False
    asked: int = 0

    def wait_for(self, victim: ForkProcess, request: int, *, is_carried_out: bool) -> None:
        self.victim, self.number, self.is_carried_out, self.asked = victim, request, is_carried_out, 0

    def fate(self, _: Request) -> Fate:
        self.asked += 1
        if self.is_carried_out or not self._is_time():
            return Fate.PASSED
        self._kill()
        return Fate.DROPPED

    def on_answer(self, _: Request) -> None:
        if self.is_carried_out and self._is_time():
            self._kill()

    def _is_time(self) -> bool:
        return self.victim is not None and self.asked == self.number

    def _kill(self) -> None:
        assert self.victim is not None and self.victim.pid is not None
        os.kill(self.victim.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "stride", [13, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])], ids=["some", "every"]
)
def test_a_collector_killed_at_any_request_ends_as_if_it_had_not(
    tmp_path: Path, tracking_server: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, so that its requests come one after the other. Every other time the cursors die with the collector."""
    made = fabricate(tmp_path / "made", num_runs=1, num_lines=3)
    options = TrackingOptions(register_models=True, figures=False)
    made.runs[0] = replace(made.runs[0], tracking=options)

    def fresh(moment: int) -> Fabricated:
        made.cursors.path.unlink(missing_ok=True)
        return Fabricated(made.workspace, made.runs, f"killed-by-{stride}-at-{moment:03}")

    executioner = Executioner()
    # Forked, so that MLflow is imported once.
    context = multiprocessing.get_context("fork")
    with proxy(tracking_server, executioner.fate, executioner.on_answer) as uri:
        undisturbed = fresh(0)
        undisturbed.collect(uri)
        expected = nameless(uri, undisturbed.name)
        assert len(expected[made.runs[0].run_id]["versions"]) == 1
        for moment in itertools.count(2, stride):
            fabricated = fresh(moment)
            victim = context.Process(target=fabricated.collect, args=(uri,))
            monkeypatch.setattr(cursor, "_GROUP_S", (0.0, 60.0)[moment // 2 % 2])
            executioner.wait_for(victim, request=moment // 2, is_carried_out=moment % 2 == 1)
            victim.start()
            victim.join(timeout=120)
            executioner.victim = None
            if victim.exitcode == 0:
                break
            assert victim.exitcode == -signal.SIGKILL
            assert fabricated.collect(uri).problems == ()
            assert nameless(uri, fabricated.name) == expected, f"moment {moment}"
    assert moment > 60  # every kind of request was met

"""A run has one job and is done once, whoever dies at whichever line, and whatever SLURM's programs answer.

Most of the time that this takes is waiting: a controller lets some time pass before it believes that a job was never
submitted. So all sweeps live at the same time, and each test looks at one of them in the end.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.slurm.client_shims import SBATCH, SQUEUE, calls, shim
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.stubbed_sweep import SlurmSweep
from tests.integration.stubbed_sweep import killed_at, wait_for_all

RUNS = 2
TWO_AT_ONCE = "two at once"

_SPEC = r"^open .*/runs/\w{12}/\.spec\.json"
_SBATCH = r"^subprocess\.Popen .*\bsbatch\b"
_LEDGER = r"^sqlite3\.connect "
#: Where a controller dies: what it was about to do, deed after deed (see killed_at/sitecustomize.py).
MOMENTS = {
    "intent is written": [_SPEC],
    "half of the specs are written": [_SPEC, _SPEC],
    "specs are written": [r"^open .*/slurm/\w{12}/\.0\.json"],
    "manifest is written": [_SBATCH],
    "sbatch has returned": [_SBATCH, _LEDGER],
}
#: Ways of squeue to give no answer at all. The others are wrong ones.
MUTE = ("fails", "hangs")
#: Those at which the array was on its way to SLURM already: it is adopted, and no other one takes its place.
SENT = {*SBATCH, "sbatch has returned"}


def killing(sweep: SlurmSweep, moment: str) -> Mapping[str, str]:
    """The environment in which a controller dies at that moment."""
    if moment in SBATCH:
        return shim(sweep.folder / "programs", "sbatch", SBATCH[moment])
    return killed_at(MOMENTS[moment])


def submit_on_hold(sweeps: Mapping[str, SlurmSweep], cluster: Cluster) -> None:
    """Submit these sweeps of one run: some wait, two run on their two nodes, and none gets on."""
    for sweep in sweeps.values():
        sweep.workspace.mkdir()
        sweep.hold_path.touch()
    assert set(wait_for_all([sweep.submit() for sweep in sweeps.values()], 60)) == {0}
    cluster.wait_for(lambda: cluster.run("squeue", "-rho", "%t").split().count("R") == 2)


def die_and_go_on(sweeps: Mapping[str, SlurmSweep]) -> list[subprocess.Popen[bytes]]:
    """Let a controller of each sweep die at the moment that it is named for; those that take its place."""
    first = {moment: sweep.submit(killing(sweep, moment)) for moment, sweep in sweeps.items()}
    for moment, code in zip(first, wait_for_all(list(first.values()), 60), strict=True):
        expected = 3 if moment == "fails after its work" else -signal.SIGKILL
        assert code == expected, f"{moment}: {code}\n{sweeps[moment].output()}"
    return [sweep.watch() for sweep in sweeps.values()]


def num_looks(sweep: SlurmSweep) -> int:
    """How often the controller of the sweep has asked squeue and got a wrong answer, or none."""
    return calls(sweep.folder / "programs", "squeue")


@pytest.fixture(scope="module")
def ended(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, SlurmSweep]:
    """All sweeps, each when its controllers have left."""
    folder = tmp_path_factory.mktemp("once")

    def sweep(name: str, runs: int, **options: Any) -> SlurmSweep:
        return SlurmSweep(folder / name.replace(" ", "-"), cluster, runs, **options)

    def misled(way: str) -> subprocess.Popen[bytes]:
        lies = mute if way in MUTE else wrong
        return held[way].watch(shim(held[way].folder / "programs", "squeue", SQUEUE[way], while_there=lies))

    held = {way: sweep(way, 1, steps=50, backend={"exclude": "n3,n4"}) for way in SQUEUE}
    killed = {moment: sweep(moment, RUNS) for moment in [*MOMENTS, *SBATCH]}
    doubled = sweep(TWO_AT_ONCE, RUNS)
    mute, wrong = folder / "mute", folder / "wrong"
    mute.touch()
    wrong.touch()
    submit_on_hold(held, cluster)
    watchers = [misled(way) for way in held]
    survivors = die_and_go_on(killed)
    assert wait_for_all([doubled.submit(), doubled.submit()], 60) == [0, 0], doubled.output()
    survivors += [doubled.watch(), doubled.watch()]
    # Who gets no answer asks less and less often; that takes no longer than a look or three.
    cluster.wait_for(lambda: num_looks(held["hangs"]) >= 1 and num_looks(held["fails"]) >= 3, 90)
    mute.unlink()
    # What is wrong stays wrong for many looks.
    codes = wait_for_all(survivors, 200)
    wrong.unlink()
    for one in held.values():
        one.hold_path.unlink()
    codes += wait_for_all(watchers, 100)
    assert set(codes) == {0}, "\n".join(one.output() for one in (*killed.values(), doubled, *held.values()))
    return {**killed, TWO_AT_ONCE: doubled, **held}


@pytest.mark.parametrize("moment", [*MOMENTS, *SBATCH])
def test_a_controller_that_is_killed_loses_and_doubles_nothing(moment: str, ended: Mapping[str, SlurmSweep]) -> None:
    sweep = ended[moment]
    sweep.assert_each_run_was_done_once(RUNS)
    sweep.assert_no_job_was_in_vain()
    if moment in SENT:
        assert len(sweep.manifests()) == 1, "what SLURM had was not found again"


def test_two_controllers_at_once_submit_every_run_once(ended: Mapping[str, SlurmSweep]) -> None:
    ended[TWO_AT_ONCE].assert_each_run_was_done_once(RUNS)
    ended[TWO_AT_ONCE].assert_no_job_was_in_vain()


@pytest.mark.parametrize("way", SQUEUE)
def test_a_wrong_answer_of_squeue_loses_and_doubles_no_run(way: str, ended: Mapping[str, SlurmSweep]) -> None:
    sweep = ended[way]
    sweep.assert_each_run_was_done_once(1)
    if way in MUTE:
        sweep.assert_no_job_was_in_vain()
    else:
        # Where it was wrong for too long, one that waited was given up and another sent; the first, when it started
        # after all, found that out and left.
        assert len(sweep.manifests()) <= 2
    assert num_looks(sweep) >= 1

"""A run has one job and is done once, whoever dies at whichever line, and whatever SLURM's programs answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration.slurm.client_shims import SBATCH, SQUEUE, calls, shim
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.stubbed_sweep import StubbedSweep, wait_for_all

RUNS = 2
KILLED_AT = Path(__file__).parent / "killed_at"

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
#: Those at which the array was on its way to SLURM already: it is adopted, and no other one takes its place.
SENT = {*SBATCH, "sbatch has returned"}


def killing(sweep: StubbedSweep, moment: str) -> Mapping[str, str]:
    """The environment in which a controller dies at that moment."""
    if moment in SBATCH:
        return shim(sweep.folder / "programs", "sbatch", SBATCH[moment])
    search_path = os.pathsep.join([str(KILLED_AT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": search_path, "KILLED_AT": "\n".join(MOMENTS[moment])}


@pytest.fixture(scope="module")
def survived(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, StubbedSweep]]:
    """A sweep for each moment, all at the same time: its first controller died there, its second went on."""
    folder = tmp_path_factory.mktemp("moments")
    sweeps = {moment: StubbedSweep(folder / moment.replace(" ", "-"), cluster, RUNS) for moment in [*MOMENTS, *SBATCH]}
    first = {moment: sweep.submit(killing(sweep, moment)) for moment, sweep in sweeps.items()}
    for moment, code in zip(first, wait_for_all(list(first.values()), 60), strict=True):
        expected = 3 if moment == "fails after its work" else -signal.SIGKILL
        assert code == expected, f"{moment}: {code}\n{sweeps[moment].output()}"
    wait_for_all([sweep.watch() for sweep in sweeps.values()], 150)
    yield sweeps


@pytest.mark.parametrize("moment", [*MOMENTS, *SBATCH])
def test_a_controller_that_is_killed_loses_and_doubles_nothing(
    moment: str, survived: Mapping[str, StubbedSweep]
) -> None:
    sweep = survived[moment]
    sweep.assert_each_run_was_done_once(RUNS)
    sweep.assert_no_job_was_in_vain()
    if moment in SENT:
        assert len(sweep.manifests()) == 1, "what SLURM had was not found again"


def has_misled(sweep: StubbedSweep, way: str) -> bool:
    """Whether the controller of the sweep has looked at wrong answers often enough to act on them, if it ever would."""
    return calls(sweep.folder / "programs", "squeue") >= (1 if way == "hangs" else 3)


def test_two_controllers_at_once_submit_every_run_once(cluster: Cluster, tmp_path: Path) -> None:
    sweep = StubbedSweep(tmp_path / "two-at-once", cluster, 4)
    codes = wait_for_all([sweep.submit(), sweep.submit()], 60)
    assert codes == [0, 0], sweep.output()
    assert wait_for_all([sweep.watch(), sweep.watch()], 60) == [0, 0], sweep.output()
    sweep.assert_each_run_was_done_once(4)
    sweep.assert_no_job_was_in_vain()


def test_an_answer_of_squeue_that_is_wrong_moves_no_job(cluster: Cluster, tmp_path: Path) -> None:
    """Two runs run and one waits in each sweep while squeue misbehaves; then all end as if nothing had happened."""
    sweeps = {way: StubbedSweep(tmp_path / way.replace(" ", "-"), cluster, 1, steps=50) for way in SQUEUE}
    broken = tmp_path / "broken"
    broken.touch()
    for sweep in sweeps.values():
        sweep.workspace.mkdir()
        sweep.hold_path.touch()
    assert set(wait_for_all([sweep.submit() for sweep in sweeps.values()], 60)) == {0}
    # With four CPUs, four of the five run and one waits.
    cluster.wait_for(lambda: cluster.run("squeue", "-rho", "%t").split().count("R") == 4)
    watchers = []
    for way, sweep in sweeps.items():
        watchers.append(sweep.watch(shim(sweep.folder / "programs", "squeue", SQUEUE[way], while_there=broken)))
    cluster.wait_for(lambda: all(has_misled(sweep, way) for way, sweep in sweeps.items()), 90)
    broken.unlink()
    for sweep in sweeps.values():
        sweep.hold_path.unlink()
    assert set(wait_for_all(watchers, 120)) == {0}
    for sweep in sweeps.values():
        sweep.assert_each_run_was_done_once(1)
        sweep.assert_no_job_was_in_vain()

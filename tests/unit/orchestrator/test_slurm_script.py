"""The batch script, the environment that jobs get, and what the errors of sbatch mean."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.base import JobRequest, JobShape, Terms
from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.backend import SlurmBackend
from orchestrator.backends.slurm.commands import CommandFailed
from orchestrator.backends.slurm.manifest import Manifest
from orchestrator.backends.slurm.script import Refusal, batch_script, job_environment, refusal_of
from orchestrator.experiment import Retries
from orchestrator.experiment.schema import Slurm
from orchestrator.state import Cause

SUBMISSION = "0123456789ab"


def request(run_id: str = "cafecafecafe", **shape: Any) -> JobRequest:
    return JobRequest(f"{run_id}-{SUBMISSION}", run_id, Path("/ws/runs") / run_id, JobShape(**shape), reset_at=5.5)


def rendered(options: Slurm, **shape: Any) -> str:
    return SlurmBackend(Path("/ws")).render(request(**shape), Terms("exp", options, Retries()))


def flags(script: str) -> dict[str, str | bool]:
    """Option -> value, read as sbatch reads the lines; each may stand there once."""
    found: dict[str, str | bool] = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH "):
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            name, has_value, value = word.partition("=")
            assert name not in found, f"{name} stands there twice"
            found[name] = value.replace("\\\\", "\\") if has_value else True
    return found


class TestScript:
    def test_what_a_plain_run_asks_for(self) -> None:
        script = rendered(Slurm())
        assert flags(script) == {
            "--array": "0-0",
            "--chdir": "/ws",
            "--cpus-per-task": "1",
            "--job-name": f"sweep-{SUBMISSION}-0",
            "--nodes": "1",
            "--ntasks-per-node": "1",
            "--open-mode": "append",
            "--output": f"/ws/slurm/{SUBMISSION}/0.logs/%A_%a.log",
            "--requeue": True,
            "--signal": "USR1@30",
        }
        command = f"exec {sys.executable} -m orchestrator.backends.slurm.job /ws/slurm/{SUBMISSION}/0.json"
        assert script.splitlines()[-1] == command
        assert "srun" not in script, "the job itself starts steps"

    def test_resources(self) -> None:
        asked = flags(rendered(Slurm(), nodes=2, processes=4, cpus=16, gpus=4, memory_mb=2048, time_s=3723))
        expected = {
            "--nodes": "2",
            "--ntasks-per-node": "1",
            "--cpus-per-task": "16",
            "--gpus-per-node": "4",
            "--mem": "2048M",
            "--time": "62:03",
        }
        assert expected.items() <= asked.items()

    def test_gpus_that_gres_names_are_not_asked_for_twice(self) -> None:
        assert "--gpus-per-node" not in flags(rendered(Slurm(gres="gpu:a100:2"), gpus=2))
        assert "--gpus-per-node" in flags(rendered(Slurm(gres="nvme:1"), gpus=2))

    def test_every_option_reaches_sbatch(self) -> None:
        named = {
            "partition": "p",
            "account": "a",
            "qos": "q",
            "constraint": "c",
            "gres": "g",
            "nodelist": "n1",
            "exclude": "n2",
            "reservation": "r",
            "dependency": "afterok:1",
            "comment": "why",
            "mail_type": "END",
            "mail_user": "me",
        }
        options = Slurm(**named, sbatch={"exclusive": "", "licenses": "x:1", "begin": "now+1"}, requeue=False)
        asked = flags(rendered(options))
        assert {f"--{name.replace('_', '-')}": value for name, value in named.items()}.items() <= asked.items()
        assert {
            "--exclusive": True,
            "--licenses": "x:1",
            "--begin": "now+1",
            "--no-requeue": True,
        }.items() <= asked.items()
        assert "--requeue" not in asked

    def test_the_free_options_win(self) -> None:
        options = Slurm(partition="p", comment="a", sbatch={"partition": "q", "comment": "b", "mail-user": "me"})
        asked = flags(rendered(options))
        assert (asked["--partition"], asked["--comment"], asked["--mail-user"]) == ("q", "b", "me")

    def test_elements_that_wait_let_what_is_requeued_go_first(self) -> None:
        manifest = _manifest()
        assert flags(batch_script(manifest, JobShape(), Slurm(), throttle=None))["--nice"] == "1"
        asked = flags(batch_script(manifest, JobShape(), Slurm(), throttle=1))
        assert (asked["--array"], asked["--nice"]) == ("0-1%1", "100")
        asked = flags(batch_script(manifest, JobShape(), Slurm(sbatch={"nice": "7"}), throttle=1))
        assert asked["--nice"] == "7"

    def test_setup_lines_come_first_and_as_they_are(self) -> None:
        lines = ("module load cuda/12", 'export X="a b" # $HOME')
        script = rendered(Slurm(setup=lines, python="/opt/my python")).splitlines()
        assert script.index(lines[0]) + 1 == script.index(lines[1])
        exported = next(number for number, line in enumerate(script) if line.startswith("export PYTHONPATH="))
        assert script.index(lines[1]) < exported, "a module may set PYTHONPATH too"
        assert script[-1].startswith("exec '/opt/my python' -m ")

    @given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="\xa0"), min_size=1))
    def test_no_value_gets_out_of_its_line(self, value: str) -> None:
        if not value.isprintable():
            return  # refused by the schema
        asked = flags(rendered(Slurm(comment=value, sbatch={"licenses": value})))
        assert asked["--comment"] == asked["--licenses"] == value


def _manifest() -> Manifest:
    backend = SlurmBackend(Path("/ws"))
    terms = Terms("exp", Slurm(max_parallel=3, grace_s=9, container={"image": "i.sif"}), Retries(failed=7))
    array = Array(JobShape(cpus=2), ((request("aaaaaaaaaaaa"),), (request("bbbbbbbbbbbb"), request("cccccccccccc"))))
    return backend._manifest(array, 3, terms)


class TestManifest:
    def test_it_reads_as_it_was_written(self, tmp_path: Path) -> None:
        manifest = replace(_manifest(), workspace=tmp_path)
        manifest.write()
        assert Manifest.read(manifest.path) == manifest
        assert manifest.path == tmp_path / "slurm" / SUBMISSION / "3.json"

    def test_a_token_leads_to_its_run(self) -> None:
        manifest = _manifest()
        token = manifest.elements[1][0]
        assert manifest.run_dir(token).path == Path("/ws/runs/bbbbbbbbbbbb")
        assert manifest.reset_at["bbbbbbbbbbbb"] == 5.5

    def test_budgets_are_those_of_the_experiment(self) -> None:
        budgets, retries = _manifest().budgets, Retries(failed=7)
        assert {cause: budgets.budget(cause) for cause in Cause} == {cause: retries.budget(cause) for cause in Cause}

    def test_another_version_is_refused(self, tmp_path: Path) -> None:
        manifest = replace(_manifest(), workspace=tmp_path)
        manifest.write()
        manifest.path.write_text(manifest.path.read_text().replace('"version":1', '"version":2'))
        with pytest.raises(ValueError, match="same installation on login and compute nodes"):
            Manifest.read(manifest.path)


class TestEnvironment:
    def test_nothing_of_an_enclosing_job_is_handed_on(self) -> None:
        inherited = {
            "HOME": "/home/me",
            "SLURM_CONF": "/etc/slurm.conf",
            "SBATCH_PARTITION": "mine",
            "SLURM_JOB_ID": "7",
            "SLURM_MEM_PER_CPU": "1",
            "SLURM_NTASKS": "4",
            "SBATCH_MEM_BIND": "quiet",
            "RANK": "3",
            "MASTER_ADDR": "n1",
            "TORCHELASTIC_RUN_ID": "x",
            "CUDA_VISIBLE_DEVICES": "0",
        }
        kept = {"HOME": "/home/me", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_PARTITION": "mine"}
        assert job_environment(inherited) == kept

    def test_outside_of_jobs_the_users_own_variables_stay(self) -> None:
        own = {"RANK": "of mine", "CUDA_VISIBLE_DEVICES": "1", "SBATCH_MEM_BIND": "local"}
        assert job_environment(own) == own


#: What follows "Batch job submission failed: ".
DEFINITE = (
    "Invalid partition name specified",
    "Invalid account or account/partition combination specified",
    "Requested node configuration is not available",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Job dependency problem",
)
NO_ROOM = (
    "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    "Resource temporarily unavailable",
)
NO_ANSWER = (
    "Unable to contact slurm controller (connect failure)",
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "Protocol authentication error",
)


class TestErrors:
    @pytest.mark.parametrize(
        ("meaning", "reasons"),
        [(Refusal.DEFINITE, DEFINITE), (Refusal.NO_ROOM, NO_ROOM), (Refusal.NO_ANSWER, NO_ANSWER)],
    )
    def test_slurms_own_words(self, meaning: Refusal, reasons: tuple[str, ...]) -> None:
        failures = [CommandFailed("sbatch", f"Batch job submission failed: {reason}", 1) for reason in reasons]
        assert {refusal_of(failure) for failure in failures} == {meaning}

    @pytest.mark.parametrize(
        ("sentence", "code", "meaning"),
        [
            ("unrecognized option '--foo=1'", 255, Refusal.DEFINITE),
            ("QOSMaxSubmitJobPerUserLimit", 1, Refusal.NO_ROOM),
            ("no answer within 150 s", None, Refusal.NO_ANSWER),
            ("exit status -9", -9, Refusal.NO_ANSWER),
        ],
    )
    def test_other_ends_of_sbatch(self, sentence: str, code: int | None, meaning: Refusal) -> None:
        assert refusal_of(CommandFailed("sbatch", sentence, code)) is meaning

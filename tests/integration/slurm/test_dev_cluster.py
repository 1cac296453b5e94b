"""The development cluster itself: it comes up whole, dies as asked, and leaves nothing behind."""

from __future__ import annotations

import ipaddress
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.integration.slurm.cluster import Cluster, dev_cluster

SMALL = ("--nodes", "1", "--no-accounting")


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Places for two clusters, which are gone at the end whatever happens."""
    both = tmp_path / "a", tmp_path / "b"
    yield both
    for folder in both:
        dev_cluster("down", "--dir", folder)


def processes_around(folder: Path) -> list[psutil.Process]:
    """Every process that has anything to do with a folder: by its command, environment, place or open files."""
    found = []
    for process in psutil.process_iter():
        with process.oneshot():
            try:
                told = [*process.cmdline(), *process.environ().values(), process.cwd()]
                told += [file.path for file in process.open_files()]
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        if any(str(folder) in text for text in told):
            found.append(process)
    return found


def start_stubborn_job(cluster: Cluster, output: Path) -> None:
    """A job on n1 that ignores every polite signal; one of its processes has no environment."""
    cluster.run(
        *("sbatch", "--nodelist=n1", f"--output={output}", "--chdir=/tmp"),
        "--wrap=trap '' TERM INT HUP; srun sh -c 'trap \"\" TERM; env -i sleep 600 & echo started; wait' & wait; wait",
    )
    cluster.wait_for(lambda: output.is_file() and "started" in output.read_text())


def test_two_clusters_live_beside_each_other_and_one_ends_without_a_trace(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        ups = list(pool.map(lambda folder: dev_cluster("up", "--dir", folder, *SMALL), folders))
    one, other = map(Cluster, folders)
    assert [up.stdout for up in ups] == [f"export SLURM_CONF={shlex.quote(str(c.conf))}\n" for c in (one, other)]
    start_stubborn_job(one, tmp_path / "job.out")
    job_processes = [p for p in processes_around(one.root) if p.name() in ("slurmstepd", "slurm_script", "srun")]
    assert len(job_processes) >= 3
    # A shell that has evaluated the export, and a job of another cluster that has a node of this name.
    shell = subprocess.Popen(["sleep", "600"], env=one.environment(), cwd="/tmp")
    stranger = subprocess.Popen(["sleep", "600"], env={**other.environment(), "SLURMD_NODENAME": "n1"}, cwd="/tmp")
    try:
        dev_cluster("down", "--dir", one.root)
        assert [process.pid for process in processes_around(one.root)] == [shell.pid]
        assert (shell.poll(), stranger.poll()) == (None, None)
    finally:
        for process in (shell, stranger):
            process.kill()
            process.wait()
    assert not one.root.exists()
    assert other.run("srun", "printenv", "SLURMD_NODENAME") == "n1"


def kill_daemons(cluster: Cluster) -> None:
    """All daemons crash at once; what runs in jobs goes on."""
    daemons = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
    crashed = [process for process in processes_around(cluster.root) if process.name() in daemons]
    for process in crashed:
        process.kill()
    psutil.wait_procs(crashed, timeout=10)


def test_what_crashed_is_started_again_or_cleared_away(folders: tuple[Path, Path], tmp_path: Path) -> None:
    cluster = Cluster(folders[0])
    dev_cluster("up", "--dir", cluster.root, "--nodes", "1", "--gpus", "2")
    assert cluster.run("srun", "--gres=gpu:2", "printenv", "CUDA_VISIBLE_DEVICES") == "0,1"
    cluster.wait_for(lambda: cluster.run("sacct", "-nXP", "-o", "state") == "COMPLETED")
    start_stubborn_job(cluster, tmp_path / "job.out")
    kill_daemons(cluster)
    assert dev_cluster("status", "--dir", cluster.root, check=False).returncode == 1

    assert "export SLURM_CONF=" in dev_cluster("up", "--dir", cluster.root).stdout
    assert "COMPLETED" in cluster.run("sacct", "-nXP", "-o", "state").splitlines()

    kill_daemons(cluster)
    dev_cluster("down", "--dir", cluster.root)
    assert processes_around(cluster.root) == []
    assert not cluster.root.exists()


def test_processes_are_ended_whose_folder_somebody_removed(folders: tuple[Path, Path]) -> None:
    dev_cluster("up", "--dir", folders[0], *SMALL)
    shutil.rmtree(folders[0])
    assert "ended" in dev_cluster("down", "--dir", folders[0]).stderr
    assert processes_around(folders[0]) == []


def test_daemons_listen_on_loopback_addresses_only(cluster: Cluster) -> None:
    """Where the machine's own name stands for one; SLURM can be told no other address."""
    if not ipaddress.ip_address(socket.gethostbyname(socket.gethostname())).is_loopback:
        pytest.skip("the name of this machine stands for an address of the network")
    listening = [
        (process.name(), connection.laddr.ip)
        for process in processes_around(cluster.root)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {name for name, _ in listening} == {"slurmctld", "slurmdbd", "slurmd"}
    assert all(ipaddress.ip_address(ip).is_loopback for _, ip in listening), listening


def test_a_dead_node_loses_all_its_processes_and_its_job_is_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    start_stubborn_job(cluster, tmp_path / "job.out")
    on_node = [p for p in processes_around(cluster.root) if p.environ().get("SLURMD_NODENAME") == "n1"]
    nameless = [child for p in on_node for child in p.children() if not child.environ()]
    slurmd = [p for p in processes_around(cluster.root) if p.cmdline()[:4] == ["slurmd", "-D", "-N", "n1"]]
    stepds = [p for p in processes_around(cluster.root) if p.name() == "slurmstepd"]
    assert on_node and nameless and len(slurmd) == 1 and len(stepds) >= 2
    cluster.kill_node("n1")
    assert not any(p.is_running() and p.status() != "zombie" for p in [*on_node, *nameless, *slurmd, *stepds])
    assert dev_cluster("status", "--dir", cluster.root, check=False).returncode == 1
    cluster.wait_for(lambda: cluster.run("sinfo", "-hn", "n1", "-p", "batch", "-o", "%T") == "down*")
    job = cluster.run("squeue", "-h", "-o", "%A")
    assert (cluster.job_field(job, "JobState"), cluster.job_field(job, "Restarts")) == ("PENDING", "1")
    cluster.start_node("n1")
    assert dev_cluster("status", "--dir", cluster.root).returncode == 0


def test_an_urgent_job_takes_the_nodes_of_others(cluster: Cluster) -> None:
    cluster.set_grace(0)
    job = cluster.run("sbatch", "--parsable", "--nodelist=n2", "--output=/dev/null", "--wrap=sleep 600")
    cluster.wait_for(lambda: cluster.job_field(job, "JobState") == "RUNNING")
    with cluster.urgent_job() as urgent:
        cluster.wait_for(lambda: cluster.job_field(urgent, "JobState") == "RUNNING")
        assert cluster.job_field(urgent, "NodeList") == "n[1-4]"
        assert (cluster.job_field(job, "JobState"), cluster.job_field(job, "Restarts")) == ("PENDING", "1")


def test_a_job_survives_the_crash_of_slurmctld(cluster: Cluster) -> None:
    job = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 600")
    cluster.wait_for(lambda: cluster.job_field(job, "JobState") == "RUNNING")
    batch_host, seen = cluster.job_field(job, "BatchHost"), time.time()
    # What slurmctld has not written down when it crashes is forgotten, jobs included; it writes every 5 s.
    saved = cluster.root / "state" / "job_state"
    cluster.wait_for(lambda: saved.is_file() and saved.stat().st_mtime > seen)
    cluster.stop("slurmctld", kill=True)
    status = dev_cluster("status", "--dir", cluster.root, check=False)
    assert status.returncode == 1
    assert re.search(r"^slurmctld +- +down$", status.stdout, re.MULTILINE)
    cluster.start("slurmctld")
    assert (cluster.job_field(job, "JobState"), cluster.job_field(job, "BatchHost")) == ("RUNNING", batch_host)


def test_up_again_changes_nothing(cluster: Cluster) -> None:
    before = {(p.pid, p.create_time()) for p in processes_around(cluster.root)}
    again = dev_cluster("up", "--dir", cluster.root)
    assert again.stdout == f"export SLURM_CONF={shlex.quote(str(cluster.conf))}\n"
    assert "is up already" in again.stderr
    assert {(p.pid, p.create_time()) for p in processes_around(cluster.root)} == before


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("status",), 3, "there is no cluster in"),
        (("kill-node", "n1"), 3, "there is no cluster in"),
        (("down",), 0, "there is no cluster in"),
        (("up", "--nodes", "0"), 2, "0 is less than 1"),
        (("up", "--dir", "/tmp/" + "x" * 90), 2, "too long by"),
        (("up", "--dir", "/tmp/a b"), 2, "cannot hold ' ' in a path"),
        (("up", "--dir", "/proc/nowhere"), 2, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], exit_code: int, says: str, tmp_path: Path) -> None:
    place = () if "--dir" in arguments else ("--dir", tmp_path / "none")
    done = dev_cluster(*arguments, *place, check=False)
    assert done.returncode == exit_code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_is_not_there(cluster: Cluster) -> None:
    done = dev_cluster("kill-node", "n9", "--dir", cluster.root, check=False)
    assert (done.returncode, "the nodes are n1, n2, n3, n4" in done.stderr) == (2, True)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("42")
    assert dev_cluster("up", "--dir", tmp_path, check=False).returncode == 2
    assert dev_cluster("down", "--dir", tmp_path).returncode == 0
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("thesis.tex", "42")]


def test_a_daemon_that_cannot_start_is_shown_with_its_log(folders: tuple[Path, Path]) -> None:
    dev_cluster("up", "--dir", folders[0], *SMALL)
    conf = folders[0] / "slurm.conf"
    dev_cluster("stop", "slurmctld", "--dir", folders[0])
    conf.write_text(conf.read_text() + "NoSuchKey=1\n")
    done = dev_cluster("start", "slurmctld", "--dir", folders[0], check=False)
    assert done.returncode == 1
    assert "slurmctld ended while it started" in done.stderr
    assert "NoSuchKey" in done.stderr


def test_nothing_is_installed_where_everything_is() -> None:
    assert "everything is installed" in dev_cluster("install").stderr

"""What the kernel's counters say about memory, in both of its ways of writing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.launch.memory import oom_kills


@pytest.mark.parametrize(
    ("groups", "file", "text", "expected"),
    [
        ("0::/job_7/step_0\n", "job_7/step_0/memory.events", "low 0\noom 1\noom_kill 2\noom_group_kill 0\n", 2),
        (
            "9:cpu,cpuacct:/x\n4:memory:/slurm/job_7\n0::/\n",
            "memory/slurm/job_7/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            3,
        ),
        ("0::/job_7\n", "job_7/memory.events", "low 0\n", 0),  # an old kernel
    ],
)
def test_kills_are_counted_where_our_group_counts_them(
    tmp_path: Path, groups: str, file: str, text: str, expected: int
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    counter = tmp_path / "mounted" / file
    counter.parent.mkdir(parents=True)
    counter.write_text(text)

    assert oom_kills(tmp_path / "cgroup", tmp_path / "mounted") == expected


def test_nobody_counts(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "absent", tmp_path) == 0
    (tmp_path / "cgroup").write_text("0::/job_7\n")
    assert oom_kills(tmp_path / "cgroup", tmp_path) == 0

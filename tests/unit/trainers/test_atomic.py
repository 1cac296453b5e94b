"""Writing many files at once: each is the old one or the new one, and a failure leaves nothing half done."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trainers.rundir import atomic


@pytest.mark.parametrize("count", [1, 40])
def test_many_files_are_replaced_and_nothing_else_remains(tmp_path: Path, count: int) -> None:
    files = {tmp_path / str(number) / "spec.json": b"new %d" % number for number in range(count)}
    for path in files:
        path.parent.mkdir()
        path.write_bytes(b"old")
    atomic.write_all(files)
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(files)


def test_a_file_that_cannot_be_written_leaves_the_old_ones(tmp_path: Path) -> None:
    files = {tmp_path / f"{number}.json": b"new" for number in range(40)}
    for path in files:
        path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        atomic.write_all({**files, tmp_path / "missing" / "last.json": b"new"})
    assert {path.read_bytes() for path in files} == {b"old"}
    assert sorted(tmp_path.rglob("*")) == sorted(files)


def test_an_object_with_a_line_for_each_part_is_the_same_json() -> None:
    value = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": {}, 'g " h': "ü\n"}
    written = atomic.json_lines_bytes(value)
    assert json.loads(written) == value
    assert b'    "c": [1, 2],\n' in written
    with pytest.raises(ValueError, match="Out of range"):
        atomic.json_lines_bytes({"a": {"b": math.nan}})

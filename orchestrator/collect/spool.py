"""``metrics.jsonl`` as a spool: read in pieces from an offset on, with a check that the offset still means the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.collect.payload import Point, fingerprint, points
from trainers.rundir import RunDir

#: Bytes before an offset that must still be there for it to hold; more than the time stamp of one line.
_TAIL_BYTES = 256
#: Bytes that are read, and sent, between two writes of the cursor.
_PIECE_BYTES = 1 << 20


def tail_fingerprint(path: Path, offset: int) -> str:
    """Fingerprint of the last bytes before an offset. Lines hold their time of measuring, so no two tails are alike."""
    if offset == 0:
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, offset - _TAIL_BYTES))
        return fingerprint(file.read(min(offset, _TAIL_BYTES)))


def pieces(path: Path, start: int, stop: int, size: int = _PIECE_BYTES) -> Iterator[tuple[int, int]]:
    """Cut a range of a file of lines into ranges of about ``size`` bytes, each from the start of a line to its end.

    A last line without its end is left out.
    """
    if start >= stop:
        return
    with open(path, "rb") as file:
        while start < stop:
            file.seek(min(start + size, stop) - 1)
            file.readline()  # to the end of the line that this piece ends in
            end = min(file.tell(), stop)
            file.seek(end - 1)
            if file.read(1) != b"\n":
                end = _last_line_end(path, start, end)
                if end == start:
                    return
            yield start, end
            start = end


def last_points(run_dir: RunDir, stop: int, keys: Iterable[str]) -> dict[str, Point]:
    """The last point of each of the named metrics before an offset. Reads from the end, and only as far as it must."""
    wanted = set(keys)
    found: dict[str, Point] = {}
    window = 1 << 16
    while stop > 0:
        begin = _line_start(run_dir.metrics_path, stop - window)
        found = {point.key: point for point in points(run_dir.read_metrics(begin, stop)) if point.key in wanted}
        if begin == 0 or len(found) == len(wanted):
            break
        window *= 8
    return found


def _line_start(path: Path, offset: int) -> int:
    """Start of the first line at or behind an offset; 0 for what is not behind the first."""
    if offset <= 0:
        return 0
    with open(path, "rb") as file:
        file.seek(offset - 1)
        file.readline()
        return file.tell()


def _last_line_end(path: Path, start: int, stop: int) -> int:
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(stop - start)
    return start + data.rfind(b"\n") + 1

"""One writer for a run directory: two attempts of a run never train at the same time."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainers.loop import Stopped
from trainers.rundir import RunDir

logger = logging.getLogger(__name__)

#: Seconds to wait for an earlier attempt that is still ending.
_DEADLINE_S = 120.0


@contextmanager
def sole_writer(run_dir: RunDir, stop_requested: Callable[[], bool]) -> Iterator[None]:
    """Hold the run's lock as rank 0; the others follow it, because they cannot start without it.

    Raises:
        Stopped: asked to stop while waiting.
        TimeoutError: an earlier attempt does not end.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        yield
        return
    with open(run_dir.lock_path, "ab") as lock:
        deadline = time.monotonic() + _DEADLINE_S
        while not _try_lock(lock.fileno(), run_dir.lock_path):
            if stop_requested():
                raise Stopped("stopped while waiting for an earlier attempt to end")
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{run_dir.lock_path} is still locked after {_DEADLINE_S:g} s by another attempt of the run"
                )
            time.sleep(0.1)
        yield


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        logger.warning("%s cannot be locked here (%s); two attempts at once would not notice", path, error.strerror)
    return True

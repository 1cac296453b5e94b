"""Ends a process with SIGKILL at a moment that its environment names; Python loads this by its name before all else.

``KILLED_AT`` is a list of regular expressions, one a line. They are looked for, one after the other, in what the
process does: its audit events, such as ``open /path``, ``subprocess.Popen sbatch`` or ``http.client.send b'GET /…'``.
At the last one it dies, before the deed is done. So a process dies at the same line every time, and nothing in it was
changed for that.
"""

import os
import re
import signal
import sys

#: Audit event -> which of its arguments says what is done.
_DEEDS = {"open": 0, "subprocess.Popen": 0, "sqlite3.connect": 0, "http.client.send": 1}
_moments = [re.compile(line) for line in os.environ.get("KILLED_AT", "").splitlines()]


def _look(event: str, arguments: tuple[object, ...]) -> None:
    is_deed = bool(_moments) and event in _DEEDS
    if is_deed and _moments[0].search(f"{event} {arguments[_DEEDS[event]]}"):
        del _moments[0]
        if not _moments:
            os.kill(os.getpid(), signal.SIGKILL)


if _moments:
    sys.addaudithook(_look)

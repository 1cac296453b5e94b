"""Training speed, without what is not training."""

from __future__ import annotations

import time
from collections.abc import Callable


class Speedometer:
    """Images per second since the last restart.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Forget the past: the next interval begins now."""
        self._images = 0
        self._started = self._clock()

    def add(self, images: int) -> None:
        """Count images of all ranks together."""
        self._images += images

    def rate(self) -> float:
        """Images per second; 0 if none were counted."""
        elapsed = self._clock() - self._started
        return self._images / elapsed if elapsed > 0 else 0.0

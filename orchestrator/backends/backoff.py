"""When to ask again somebody who does not answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class Backoff:
    """When to ask again somebody who does not answer: after twice the time, up to a minute, and not all at once."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, first_s: float = 2.0, limit_s: float = 60.0
    ) -> None:
        self._clock, self._first_s, self._limit_s = clock, first_s, limit_s
        self._num_failures = 0
        self._until = 0.0

    def failed(self) -> bool:
        """Note that there was no answer; whether it is the first time since the last answer."""
        self._num_failures += 1
        longest_s = min(self._limit_s, self._first_s * 2.0 ** min(self._num_failures, 10))
        self._until = self._clock() + random.uniform(longest_s / 2, longest_s)
        return self._num_failures == 1

    def succeeded(self) -> bool:
        """Note that there was an answer; whether there was none before."""
        had_failed, self._num_failures, self._until = self._num_failures > 0, 0, 0.0
        return had_failed

    @property
    def remaining_s(self) -> float:
        """Seconds until it is time to ask again; 0 if it is."""
        return max(0.0, self._until - self._clock()) if self._num_failures else 0.0

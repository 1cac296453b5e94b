"""What took a trial's actor away, in words that an attempt's record can hold. Imports no Ray."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from orchestrator.errors import last_line
from orchestrator.retry import Ending
from orchestrator.state import Cause
from trainers.rundir import AttemptRecord

#: Seconds that an attempt may have ended before its loss was noticed: Ray needs half a minute to miss a node.
_NOTICED_WITHIN_S = 120.0


@dataclass(frozen=True)
class Loss:
    """The end of an actor that nobody in it wanted.

    Attributes:
        moment: seconds since the Unix epoch, when it was noticed.
        began: whether the actor came to begin an attempt.
    """

    cause: Cause
    detail: str
    moment: float
    began: bool = True

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self | None:
        """The reverse of :meth:`to_json`."""
        return None if value is None else cls(**{**value, "cause": Cause(value["cause"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "cause": str(self.cause)}

    def ending(self) -> Ending:
        """Of an attempt that nobody closed."""
        return Ending(self.cause, self.detail, moment=self.moment)

    def explains(self, record: AttemptRecord) -> bool:
        """Whether it is what ended an attempt whose launcher was only asked to stop, and by whom it cannot know."""
        if self.cause is Cause.LOST or record.ended is None:
            return False
        is_recent = record.ended > self.moment - _NOTICED_WITHIN_S
        return is_recent and record.cause in (Cause.PREEMPTED, Cause.FAILED)


def loss_of(error: BaseException | None, text: str, *, began: bool = True) -> Loss:
    """The loss that Ray's error speaks of.

    Args:
        error: as Tune got it; None if only its text is left.
        text: of the error.
        began: see :class:`Loss`.
    """
    if type(error).__name__ == "OutOfMemoryError" or any(words in text for words in _OUT_OF_MEMORY):
        cause, detail = Cause.OUT_OF_MEMORY, "Ray ended the trial because its node ran out of memory"
    elif getattr(error, "preempted", False):
        cause, detail = Cause.PREEMPTED, "its node was taken away"
    elif "node has died" in text:
        cause, detail = Cause.NODE_FAIL, "its node left the cluster"
    elif type(error).__name__ == "ActorUnavailableError":
        # Of a worker that was killed its raylet tells at once. Here the raylet is gone too, and Ray is not sure yet.
        cause, detail = Cause.NODE_FAIL, "its node does not answer any more"
    elif "RayTaskError" in type(error).__name__:
        cause, detail = Cause.LOST, f"the trial failed: {last_line(text) or 'without a word'}"
    else:
        cause, detail = Cause.LOST, "the trial's actor was killed" + _exit_detail(text)
    return Loss(cause, detail, time.time(), began)


#: What Ray says of a worker that its memory monitor killed. Its text for any killed worker names the OOM killer too.
_OUT_OF_MEMORY = ("node running low on memory", "NODE_OUT_OF_MEMORY")


def _exit_detail(text: str) -> str:
    """What kind of end Ray saw, without its guesses."""
    found = re.search(r"Worker exit type: (\w+)", text)
    return "" if found is None else f" (Ray: {found[1]})"

"""What took a trial's actor away, in words that an attempt's record can hold. Imports no Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

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
    def of_node(cls, name: str) -> Self:
        """A node that died under a run of several."""
        return cls(Cause.NODE_FAIL, f"node {name} left the cluster", time.time())

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
        if self.cause is Cause.LOST or record.ended is None or record.cause == Cause.DONE:
            return False
        is_recent = record.ended > self.moment - _NOTICED_WITHIN_S
        return is_recent and record.cause in (Cause.PREEMPTED, Cause.FAILED, Cause.LOST)


def loss_of(error: BaseException | None, text: str, *, began: bool) -> Loss:
    """The loss that Ray's error speaks of.

    Args:
        error: as Tune got it; None if only its text is left.
        text: of the error.
    """
    lowered, name = text.lower(), type(error).__name__
    if (
        name == "OutOfMemoryError"
        or "out of memory" in lowered
        or "oom killer" in lowered
        or "memory monitor" in lowered
    ):
        cause, detail = Cause.OUT_OF_MEMORY, "Ray ended the trial because its node ran out of memory"
    elif getattr(error, "preempted", False):
        cause, detail = Cause.PREEMPTED, "its node was taken away"
    elif "node has died" in lowered or "node died" in lowered or "node was terminated" in lowered:
        cause, detail = Cause.NODE_FAIL, "its node left the cluster"
    else:
        cause, detail = Cause.LOST, f"the trial's actor died: {_essence(text)}"
    return Loss(cause, detail, time.time(), began)


def _essence(text: str) -> str:
    """The line of Ray's error that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "worker" in line.lower() or "error" in line.lower()]
    return (telling or lines or ["without a word"])[-1][:300]

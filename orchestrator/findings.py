"""What a probe of the environment found, for ``sweep doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a probed thing is."""

    GOOD = "good"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One probe's answer: what was looked at, how it is, and what to do if it is not good."""

    subject: str
    verdict: Verdict
    detail: str

"""Which hosts attempts fail on, so that a node that keeps failing can be named and left out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.state import Cause
from trainers.rundir import AttemptRecord

#: Causes for which a host may be to blame.
_FAILURES = frozenset({Cause.FAILED, Cause.NODE_FAIL, Cause.OUT_OF_MEMORY, Cause.LOST})

#: One failure is bad luck.
_SUSPICIOUS = 2


@dataclass(frozen=True)
class SuspectHost:
    """A host with several failed attempts.

    Attributes:
        failed, attempts: ended attempts on the host, those that failed and all of them.
        failed_elsewhere, attempts_elsewhere: the same on all other hosts together.
    """

    name: str
    failed: int
    attempts: int
    failed_elsewhere: int
    attempts_elsewhere: int

    @property
    def sentence(self) -> str:
        """For people."""
        elsewhere = (
            f"; elsewhere {self.failed_elsewhere} of {self.attempts_elsewhere}" if self.attempts_elsewhere else ""
        )
        return f"{self.failed} of {self.attempts} attempts on {self.name} failed{elsewhere}"


def suspect_hosts(attempts: Iterable[AttemptRecord]) -> list[SuspectHost]:
    """Hosts where two or more attempts failed, and more often than elsewhere; the worst first.

    An attempt counts on each of its hosts. What fails everywhere alike accuses no host, nor do attempts of the local
    backend, which has no other.
    """
    ended = [attempt for attempt in attempts if attempt.ended is not None and attempt.backend != "local"]
    all_of = Counter(host for attempt in ended for host in set(attempt.hosts))
    failures = [attempt for attempt in ended if attempt.cause in _FAILURES]
    failed_of = Counter(host for attempt in failures for host in set(attempt.hosts))
    found = [
        SuspectHost(
            name=host,
            failed=failed,
            attempts=all_of[host],
            failed_elsewhere=sum(host not in attempt.hosts for attempt in failures),
            attempts_elsewhere=sum(host not in attempt.hosts for attempt in ended),
        )
        for host, failed in failed_of.items()
        if failed >= _SUSPICIOUS
    ]
    accused = [
        host
        for host in found
        if not host.attempts_elsewhere or host.failed / host.attempts > host.failed_elsewhere / host.attempts_elsewhere
    ]
    return sorted(accused, key=lambda host: (-host.failed / host.attempts, -host.failed, host.name))

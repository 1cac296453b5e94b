"""Watching an experiment: the live table on a terminal, one line a change elsewhere; and the meaning of signals."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.cli.display import status_table, summary_line
from orchestrator.cli.outlook import Outlook, live_text
from orchestrator.controller import Snapshot
from orchestrator.state import RunState


class Interruption:
    """Remembers Ctrl-C and SIGTERM as a wish to stop; a closed terminal (SIGHUP) only ends the drawing.

    A second Ctrl-C raises KeyboardInterrupt: the user does not want to wait for the checkpoints.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self.is_terminal_gone = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block, and as before after it."""
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        if previous[signal.SIGHUP] is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(signal.SIGHUP, self._detach)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True

    def _detach(self, _number: int, _frame: FrameType | None) -> None:
        self.is_terminal_gone = True


@contextmanager
def drawing(console: Console, interruption: Interruption, outlook: Outlook) -> Iterator[Callable[[Snapshot], None]]:
    """A function that shows each new picture."""
    if not console.is_terminal:
        yield _Lines(console, interruption).show
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield _Screen(live, console, interruption, outlook).show


class _Screen:
    def __init__(self, live: Live, console: Console, interruption: Interruption, outlook: Outlook) -> None:
        self._live = live
        self._console = console
        self._interruption = interruption
        self._outlook = outlook

    def show(self, snapshot: Snapshot) -> None:
        if self._interruption.is_terminal_gone:
            self._live.stop()
            return
        head = summary_line(snapshot)
        found = self._outlook.of(snapshot)
        if found is not None:
            head.append(f"  {live_text(found, snapshot.to_suggest, time.time())}", style="dim")
        foot = Text("saving and stopping… (Ctrl-C again to leave at once)", style="yellow")
        parts = [head, status_table(snapshot, max_rows=max(4, self._console.height - 4))]
        self._live.update(Group(*parts, *([foot] if self._interruption.is_asked else [])))


class _Lines:
    """For logs and pipes: a line whenever a run changes state."""

    def __init__(self, console: Console, interruption: Interruption) -> None:
        self._console = console
        self._interruption = interruption
        self._states: dict[str, RunState] = {}

    def show(self, snapshot: Snapshot) -> None:
        if self._interruption.is_terminal_gone:
            return
        for run in snapshot.runs:
            if self._states.get(run.run_id) is run.state:
                continue
            is_news = run.run_id in self._states or run.state is not RunState.PLANNED
            self._states[run.run_id] = run.state
            if is_news and run.state is not RunState.SUBMITTING:
                labels = " ".join(run.axes.values())
                said = run.reason or snapshot.notes.get(run.run_id, "")
                reason = f": {said}" if said else ""
                clock = time.strftime("%H:%M:%S")
                sys.stdout.write(f"{clock}  {run.run_id}  {labels}  {run.state}{reason}\n")
        sys.stdout.flush()

"""``sweep show``: everything that is known of one run, as a record for scripts and as a page for people."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.display import STATE_STYLES, duration
from orchestrator.cli.hosts import suspect_hosts
from orchestrator.cli.session import Session
from orchestrator.ledger import RunRow
from orchestrator.state import RunState


def run_record(session: Session, run: RunRow) -> dict[str, Any]:
    """JSON values: where the run is, what it is made of, its attempts, events, results and folder."""
    run_dir = session.workspace.run_dir(run.run_id)
    status, result = run_dir.read_status(), run_dir.read_result()
    attempts = run_dir.read_attempts()
    return {
        "run_id": run.run_id,
        "experiments": sorted({row.experiment for row in session.ledger.find_runs(run.run_id)}),
        "axes": dict(run.axes),
        "state": str(run.state),
        "reason": run.reason,
        "config": session.ledger.configs([run.run_id])[run.run_id],
        "status": None if status is None else status.to_json(),
        "jobs": [
            {
                "token": job.token,
                "backend": job.backend,
                "job_id": job.job_id,
                "submitted": job.submitted,
                "ended": job.ended,
                "cause": job.cause,
                "detail": job.detail,
            }
            for job in session.ledger.jobs_of(run.run_id)
        ],
        "attempts": [attempt.to_json() for attempt in attempts],
        "suspect_hosts": [host.sentence for host in suspect_hosts(attempts)],
        "events": [
            {"time": moment, "state": state, "detail": detail}
            for moment, state, detail in session.ledger.events_of(run.run_id)
        ],
        "result": None if result is None else result.to_json(),
        "run_dir": str(run_dir.path),
    }


def run_page(record: Mapping[str, Any]) -> RenderableType:
    """The record, laid out for a terminal."""
    state = RunState(record["state"])
    head = Text.assemble(
        ("run ", ""), (record["run_id"], "bold"), "  ", (record["state"], STATE_STYLES[state]), f"  {record['reason']}"
    )
    parts: list[RenderableType] = [head, _pairs("", {**record["axes"], "in": ", ".join(record["experiments"])})]
    parts.append(_pairs("configuration", _flat(record["config"])))
    if record["jobs"] and record["jobs"][-1]["ended"] is None:
        parts.append(_living_job(record["jobs"][-1]))
    if record["attempts"]:
        parts.append(_attempts(record["attempts"]))
        ends = Counter(attempt["cause"] for attempt in record["attempts"] if attempt["ended"] is not None)
        parts.append(Text(", ".join(f"{count} {cause}" for cause, count in ends.most_common()), style="dim"))
        parts += [Text(sentence, style="yellow") for sentence in record["suspect_hosts"]]
    parts.append(_events(record["events"]))
    if record["result"] is not None:
        metrics = {name: f"{value:.4g}" for name, value in sorted(record["result"]["metrics"].items())}
        parts.append(_pairs("final metrics", metrics))
        parts += [Text(f"\n{warning}", style="yellow") for warning in record["result"]["warnings"]]
    parts.append(Text(f"\nfiles: {record['run_dir']}", style="dim", overflow="fold"))
    return Group(*parts)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _titled(title: str) -> Table:
    return Table(
        title=f"\n{title}" if title else None, title_justify="left", title_style="bold", box=None, pad_edge=False
    )


def _pairs(title: str, values: Mapping[str, str]) -> Table:
    table = _titled(title)
    table.show_header = False
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(key, value)
    return table


def _living_job(job: Mapping[str, Any]) -> Text:
    number = job["job_id"] or "no number yet"
    since = f", submitted {_clock(job['submitted'])}" if job["submitted"] else ""
    return Text(f"\njob of {job['backend']}: {number}{since}", overflow="fold")


def _attempts(attempts: list[dict[str, Any]]) -> Table:
    table = _titled("attempts")
    for name in ("#", "backend", "job", "host", "started", "took", "steps", "end"):
        table.add_column(name, overflow="fold")
    for attempt in attempts:
        ended = attempt["ended"]
        took = "" if ended is None else duration(ended - attempt["started"])
        steps = (
            f"{attempt['first_step']} → {attempt['last_step']}" if ended is not None else f"{attempt['first_step']} →"
        )
        table.add_row(
            str(attempt["number"]),
            attempt["backend"],
            attempt["job_id"],
            ", ".join(attempt["hosts"]),
            _clock(attempt["started"]),
            took,
            steps,
            f"{attempt['cause']} {attempt['detail']}".strip(),
        )
    return table


def _events(events: list[dict[str, Any]]) -> Table:
    table = _titled("events")
    table.show_header = False
    for event in events:
        table.add_row(_clock(event["time"]), event["state"], event["detail"])
    return table


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))

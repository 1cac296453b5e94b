"""``sweep reproduce``: write the experiment file of one run, and say what is no longer as it was then."""

from __future__ import annotations

import platform
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from orchestrator.cli import display
from orchestrator.cli.logs import find_run
from orchestrator.cli.session import Session, open_session
from orchestrator.collect import store_uri
from orchestrator.collect.lookup import alike, find_recorded, near_ids
from orchestrator.data_check import DataProblem, read_data
from orchestrator.errors import InputError
from orchestrator.experiment import load_experiment
from orchestrator.provenance import own_source, package_versions
from orchestrator.redaction import redacted
from orchestrator.reproduce import (
    Compared,
    Recorded,
    compare_data,
    compare_packages,
    compare_source,
    experiment_text,
    not_the_same_run,
)
from orchestrator.spec import run_id
from orchestrator.workspace import find_workspace
from trainers.config import Data, RunConfig
from trainers.rundir import atomic

_ID = re.compile("[0-9a-f]{1,32}")


def reproduce_run(
    prefix: str, tracking_uri: str | None, output: Path | None, workspace: str | None, *, as_json: bool
) -> int:
    """Write the file and compare; the exit code is 0 if all is as it was, 1 if something differs or cannot be told.

    Raises:
        InputError: no run, or more than one, has this id; or another file is in the place of ``output``.
        EnvironmentProblem: the store does not answer.
    """
    if not _ID.fullmatch(prefix):
        raise InputError(f"{prefix!r} is no run id: ids are up to 32 hexadecimal digits, such as 3f9a12ab34cd")
    recorded = _find(prefix, tracking_uri, workspace)
    path = output or Path(f"{recorded.name}.yaml")
    diff_path = path.with_suffix(".diff")
    text = experiment_text(recorded, diff_path.name if recorded.source_diff else None)
    files = {path: text.encode(), **({diff_path: recorded.source_diff} if recorded.source_diff else {})}
    _write(files)
    compared = [
        *_compare_run(recorded, path),
        *compare_source(recorded.provenance, own_source()),
        *compare_packages(recorded.provenance, platform.python_version(), package_versions()),
        _compare_data(recorded, workspace),
    ]
    is_same = all(one.is_same for one in compared)
    if as_json:
        rows = [asdict(one) for one in compared]
        written = [str(file) for file in files]
        display.print_json({"run_id": recorded.run_id, "files": written, "same": is_same, "compared": rows})
    else:
        _print(recorded, list(files), compared)
    return 0 if is_same else 1


def _find(prefix: str, tracking_uri: str | None, workspace_option: str | None) -> Recorded:
    place = find_workspace(workspace_option)
    if tracking_uri is not None:
        uris = [store_uri(tracking_uri, Path.cwd())]
    else:
        session = open_session(workspace_option) if place.ledger_path.exists() else None
        if session is not None and session.ledger.find_runs(prefix):
            return _of_workspace(session, prefix)
        uris = list(_known_stores(session, place.path))
    uris = [uri for uri in uris if _may_exist(uri)]
    if not uris:
        named = redacted(tracking_uri or f"no workspace {place.path}")
        raise InputError(
            f"there is no tracking store to look for run {prefix} in ({named}); name one with --tracking-uri, or the "
            "workspace with --workspace"
        )
    for uri in uris:
        found = find_recorded(uri, prefix)
        if found is not None:
            return found
    near = [near for uri in uris for near in near_ids(uri, prefix)]
    if tracking_uri is None and session is not None:
        rows = [
            row.run_id for experiment in session.ledger.experiments() for row in session.ledger.runs(experiment.name)
        ]
        near = [*alike(prefix, rows), *near]
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    raise InputError(f"no run begins with {prefix} in {redacted(tracking_uri or str(place.path))}{hint}")


def _known_stores(session: Session | None, workspace: Path) -> Iterator[str]:
    """The workspace's own store, then those that its experiments were collected into."""
    uris: list[str | None] = [None]
    if session is not None:
        uris += [experiment.settings["tracking"]["uri"] for experiment in session.ledger.experiments()]
    yield from dict.fromkeys(store_uri(uri, workspace) for uri in uris)


def _may_exist(uri: str) -> bool:
    """False for a database file that is not there: looking for it would create it."""
    return not uri.startswith("sqlite") or Path(uri.partition(":///")[2].partition("?")[0]).exists()


def _of_workspace(session: Session, prefix: str) -> Recorded:
    run = find_run(session, prefix)
    run_dir = session.workspace.run_dir(run.run_id)
    spec = run_dir.read_spec()
    if spec is None:
        raise InputError(f"run {run.run_id} has not begun, so that there is nothing to reproduce yet")
    diff = run_dir.source_diff_path
    return Recorded(
        spec=spec,
        dataset=atomic.read_json(run_dir.dataset_path),
        source_diff=diff.read_bytes() if diff.exists() else b"",
        place=str(run_dir.path),
        resources={key: value for key, value in run.resources.items() if value is not None},
    )


def _write(files: dict[Path, bytes]) -> None:
    """Write all of them. A file of other content is somebody's work: it stays, and nothing is written."""
    path = Path()
    try:
        for path, content in files.items():
            if path.exists() and path.read_bytes() != content:
                raise InputError(f"{path} is there already and says something else; name another file with --output")
        for path, content in files.items():
            path.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; name another with --output") from error


def _compare_run(recorded: Recorded, path: Path) -> list[Compared]:
    """Whether the written file gives the very run, by expanding it."""
    row = Compared("run id", recorded.run_id, "", False)
    try:
        cells = load_experiment(path, environment={}).cells()
    except InputError as error:
        return [replace(row, now=f"not valid in this version: {error}")]
    found = cells[0].run_id
    if found == recorded.run_id:
        return [replace(row, now=found, is_same=True)]
    config = cells[0].config.model_dump(mode="json")
    reasons = not_the_same_run(recorded.spec["config"], config)
    if not reasons:
        is_edited = run_id(RunConfig.model_validate(recorded.spec["config"])) == found
        reasons = ["its spec.json was edited" if is_edited else "run ids are made otherwise in this version"]
    return [replace(row, now=f"{found}: {'; '.join(reasons)}")]


def _compare_data(recorded: Recorded, workspace_option: str | None) -> Compared:
    config = recorded.spec["config"]
    try:
        data = Data.model_validate(config["data"])
    except ValueError:
        return compare_data(recorded, None, "its settings are not valid in this version")
    missing = next((path for path in _paths(data) if not Path(path).exists()), None)
    if missing is not None:
        return compare_data(recorded, None, f"{missing} is not here")
    workspace = find_workspace(workspace_option)
    with tempfile.TemporaryDirectory() as scratch:
        found = read_data([data], workspace.cache_dir if workspace.path.exists() else Path(scratch))
    if isinstance(found, DataProblem):
        return replace(compare_data(recorded, None, found.text), is_same=False)
    return compare_data(recorded, found[0], "")


def _paths(data: Data) -> Iterator[str]:
    if data.name != "digits":
        yield data.root
    if data.class_list is not None:
        yield data.class_list
    for profile in (data.profile, getattr(data.profile, "match", None)):
        path = getattr(profile, "path", None)
        if path is not None:
            yield path


def _print(recorded: Recorded, files: Sequence[Path], compared: Sequence[Compared]) -> None:
    console = display.console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("then", overflow="fold")
    table.add_column("now", overflow="fold")
    table.add_column("same", no_wrap=True)
    answers = {True: Text("yes", style="green"), False: Text("no", style="bold red"), None: Text("?", style="yellow")}
    for one in compared:
        table.add_row(one.what, one.then, one.now, answers[one.is_same])
    console.print(f"run {recorded.run_id} of {recorded.experiment}, from {recorded.place}", soft_wrap=True)
    console.print(table)
    differing = [one.what for one in compared if one.is_same is False]
    unknown = [one.what for one in compared if one.is_same is None]
    if differing:
        console.print(f"not as it was: {', '.join(differing)}; the numbers may differ", style="yellow", soft_wrap=True)
    if unknown:
        console.print(f"cannot be told: {', '.join(unknown)}", style="yellow", soft_wrap=True)
    if not differing and not unknown:
        console.print("everything that its numbers depend on is as it was", style="green")
    console.print(f"{' and '.join(map(str, files))} written; `sweep run {files[0]}` runs it again", soft_wrap=True)

"""The ``sweep`` command and its subcommands.

Each subcommand is a few lines here: what it does lives in the modules that it imports when it is called, so that
``sweep --help`` and shell completion stay fast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import __version__
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from orchestrator.cli.session import Session

app = typer.Typer(
    name="sweep",
    help="Self-supervised learning experiments: one file, three backends, the same numbers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Begin with: sweep run experiments/quickstart.yaml",
)


def _complete_experiment(incomplete: str) -> list[str]:
    from orchestrator.cli.session import open_session

    try:
        return [row.name for row in open_session(None).ledger.experiments() if row.name.startswith(incomplete)]
    except OrchestratorError:
        return []


File = Annotated[Path, typer.Argument(help="Experiment file (YAML).", show_default=False)]
Name = Annotated[
    str | None,
    typer.Argument(
        help="Experiment; the one used last if left out.", show_default=False, autocompletion=_complete_experiment
    ),
]
Run = Annotated[str, typer.Argument(help="Run id, or the beginning of one.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the experiment file's value for this call. Repeatable."),
]
BackendOption = Annotated[str | None, typer.Option("--backend", help="local, slurm or ray, instead of the file's.")]
SiteOption = Annotated[
    Path | None,
    typer.Option(
        "--site",
        envvar="SWEEP_SITE",
        help="Site profile (YAML): resources and backend of a cluster, under the file's own.",
        show_default=False,
    ),
]
WorkspaceOption = Annotated[
    str | None, typer.Option("--workspace", help="Folder of runs, ledger and store. [default: ./sweeps]")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def main() -> None:
    """Entry point: prints what the user can act on, and ends with the documented exit codes."""
    try:
        app()
    except OrchestratorError as error:
        print(f"sweep: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)  # the reader (head, less) has seen enough


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"sweep {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _session(workspace: str | None) -> Session:
    from orchestrator.cli.session import open_session

    return open_session(workspace)


@app.command(epilog="Example: sweep plan experiments/cifar10_lt.yaml --set 'grid.seed=[0]'")
def plan(
    file: File,
    overrides: Set = None,
    backend: BackendOption = None,
    site: SiteOption = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
    show_all: Annotated[bool, typer.Option("--all", help="Print every run, however many.")] = False,
) -> None:
    """Expand and validate an experiment file; print its runs and what is done already. Starts nothing."""
    from orchestrator.cli.commands import plan_file
    from orchestrator.cli.session import Asked

    plan_file(Asked(file, overrides or [], backend, site), workspace, as_json=as_json, show_all=show_all)


@app.command(epilog="Example: sweep run experiments/quickstart.yaml")
def run(
    file: File,
    overrides: Set = None,
    backend: BackendOption = None,
    site: SiteOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Submit, watch, collect and report. Ctrl-C saves and stops; the same command goes on."""
    from orchestrator.cli.commands import run_file
    from orchestrator.cli.session import Asked

    raise typer.Exit(run_file(Asked(file, overrides or [], backend, site), workspace))


@app.command(epilog="Example: sweep submit experiments/cifar10_lt.yaml && sweep watch")
def submit(
    file: File,
    overrides: Set = None,
    backend: BackendOption = None,
    site: SiteOption = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Submit what is not done, and return. Twice is the same as once."""
    from orchestrator.cli.commands import submit_file
    from orchestrator.cli.session import Asked

    submit_file(Asked(file, overrides or [], backend, site), workspace, as_json=as_json)


@app.command(epilog="Example: sweep status --json | jq '.runs[].state'")
def status(name: Name = None, workspace: WorkspaceOption = None, as_json: Json = False) -> None:
    """One table of an experiment's runs and where they are."""
    from orchestrator.cli.commands import show_status

    show_status(_session(workspace), name, as_json=as_json)


@app.command(epilog="Example: sweep watch cifar10-lt")
def watch(name: Name = None, workspace: WorkspaceOption = None) -> None:
    """The same table, live, until everything is done. Ctrl-C leaves the jobs running."""
    from orchestrator.cli.commands import watch_experiment

    raise typer.Exit(watch_experiment(_session(workspace), name))


@app.command(epilog="Example: sweep resume cifar10-lt")
def resume(name: Name = None, workspace: WorkspaceOption = None, as_json: Json = False) -> None:
    """Submit again every run that is preempted, failed, lost or cancelled, from its newest checkpoint."""
    from orchestrator.cli.commands import resume_experiment

    resume_experiment(_session(workspace), name, as_json=as_json)


@app.command(epilog="Example: sweep cancel cifar10-lt")
def cancel(name: Name = None, workspace: WorkspaceOption = None) -> None:
    """Stop an experiment's jobs, each with a checkpoint, and submit no more. `resume` takes it back."""
    from orchestrator.cli.commands import cancel_experiment

    raise typer.Exit(cancel_experiment(_session(workspace), name))


@app.command(epilog="Example: sweep evaluate cifar10-lt --set 'evaluate.linear={protocol: moco}'")
def evaluate(name: Name = None, overrides: Set = None, workspace: WorkspaceOption = None) -> None:
    """Evaluate finished runs by further protocols, without training. What was evaluated already is not done again."""
    from orchestrator.cli.commands import evaluate_experiment

    raise typer.Exit(evaluate_experiment(_session(workspace), name, overrides or [], workspace))


@app.command(epilog="Example: sweep logs 3f9a -f")
def logs(
    run_id: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing as the log grows.")] = False,
    rank: Annotated[int, typer.Option(help="Which rank's output.")] = 0,
    attempt: Annotated[int | None, typer.Option(help="Which attempt; the newest if left out.")] = None,
    of_job: Annotated[
        bool,
        typer.Option("--job", help="What its job printed outside of any attempt: SLURM's batch script, Ray's driver."),
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Print what a run printed. `-f` follows it over preemptions, until it ends."""
    from orchestrator.cli.logs import print_logs

    print_logs(_session(workspace), run_id, follow=follow, rank=rank, attempt=attempt, of_job=of_job)


@app.command(epilog="Example: sweep show 3f9a")
def show(run_id: Run, workspace: WorkspaceOption = None, as_json: Json = False) -> None:
    """Everything about one run: configuration, attempts, events, metrics, files."""
    from orchestrator.cli.commands import show_run

    show_run(_session(workspace), run_id, as_json=as_json)


@app.command(epilog="Example: sweep collect cifar10-lt --follow")
def collect(
    name: Name = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until every run is done.")] = False,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Bring metrics, checkpoints and artifacts into MLflow. Twice is the same as once."""
    from orchestrator.cli.commands import collect_experiment

    collect_experiment(_session(workspace), name, follow=follow, as_json=as_json)


@app.command(epilog="Example: sweep report cifar10-lt --output tables/")
def report(
    name: Name = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the files.", show_default=False)] = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Mean and standard deviation over seeds: Markdown, HTML, CSV and figures; also logged to MLflow's parent run."""
    from orchestrator.cli.commands import report_experiment

    report_experiment(_session(workspace), name, output, as_json=as_json)


@app.command(epilog="Example: sweep ui cifar10-lt")
def ui(
    name: Name = None,
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1; a free one if left out.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the first link in the browser.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Start the MLflow UI on this workspace's store and print links to the experiment's runs, charts and comparison."""
    from orchestrator.cli.commands import start_ui

    start_ui(_session(workspace), name, port, show=show)


@app.command(epilog="Example: sweep reproduce 3f9a12ab34cd --tracking-uri http://tracking.example.org:5000")
def reproduce(
    run_id: Annotated[
        str, typer.Argument(help="Run id, ours or MLflow's, or the beginning of one.", show_default=False)
    ],
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="Tracking store to find the run in, instead of the workspace.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Experiment file to write. [default: EXPERIMENT-RUN.yaml]", show_default=False),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Write the experiment file that gives one run again; compare code, packages and data with what they were."""
    from orchestrator.cli.reproduce import reproduce_run

    raise typer.Exit(reproduce_run(run_id, tracking_uri, output, workspace, as_json=as_json))


@app.command(epilog="Example: sweep drill --backend local")
def drill(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]",
            help="Experiment, or its file, whose resources and backend the drill takes.",
            show_default=False,
            autocompletion=_complete_experiment,
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="requeue, signal, kill, actor or partition:NAME. Repeatable: one after the other.", show_default=False
        ),
    ] = None,
    overrides: Set = None,
    backend: BackendOption = None,
    site: SiteOption = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Interrupt a small real job as the site would, and prove that it comes back with the same numbers."""
    from orchestrator.cli.drill import drill as carry_out
    from orchestrator.cli.session import Asked

    asked = Asked(Path(), overrides or [], backend, site)
    raise typer.Exit(carry_out(target, asked, workspace, by=by or [], as_json=as_json))


@app.command(epilog="Example: sweep doctor --backend local")
def doctor(
    overrides: Set = None,
    backend: BackendOption = None,
    site: SiteOption = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Probe machine, workspace, store and backend; say what is wrong before a job does."""
    from orchestrator.cli.doctor import examine
    from orchestrator.experiment import load_site

    options = load_site(site, [*([f"backend={backend}"] if backend else []), *(overrides or [])])
    if not examine(options, workspace, as_json=as_json):
        raise typer.Exit(3)

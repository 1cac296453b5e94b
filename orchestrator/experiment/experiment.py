"""One experiment, read and validated: what every command of ``sweep`` starts from."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from orchestrator.errors import InputError
from orchestrator.experiment.axes import CELL_SHAPE, SECTIONS, Setting, unknown_path
from orchestrator.experiment.cells import Cell, Expansion, expand
from orchestrator.experiment.checkpoints import keeping, with_runtime
from orchestrator.experiment.document import OPTIONS_SHAPE, Document, read_document, read_site
from orchestrator.experiment.explain import problems_of, raise_problems
from orchestrator.experiment.grid import Grid, parse_grid
from orchestrator.experiment.nodes import Entry, ListNode, MapNode, Node, Position, Problem, ScalarNode, fail
from orchestrator.experiment.schema import Backend, Options, Report, Resources, Retries, Tracking
from orchestrator.experiment.search import Search
from orchestrator.experiment.sections import locate
from orchestrator.experiment.settings import complete
from orchestrator.experiment.shape import find
from trainers.config import Inconsistent


@dataclass(frozen=True)
class Experiment:
    """What one experiment file says.

    Attributes:
        path: the file.
        text: its content, without what it extends.
        extended: the contents of the files that it extends, by path: from the folder of ``path`` where they lie below
            it, and else their names below ``extended/``.
        digest: SHA-256 over the file and everything that it extends.
        overrides: the ``key=value`` of each ``--set``.
        site: the site profile that it stands on, if any.
        options: the typed sections; also reachable one by one below.
        grid: the rules that make the runs.
    """

    path: Path
    text: str
    extended: Mapping[str, str]
    digest: str
    overrides: tuple[str, ...]
    site: Path | None
    options: Options
    grid: Grid

    @property
    def name(self) -> str:
        return self.options.name

    @property
    def resources(self) -> Resources:
        """What a run asks for, unless a rule of ``when`` says otherwise: see :attr:`Cell.resources`."""
        return self.options.resources

    @property
    def backend(self) -> Backend:
        return self.options.backend

    @property
    def tracking(self) -> Tracking:
        return self.options.tracking

    @property
    def report(self) -> Report:
        return self.options.report

    @property
    def retries(self) -> Retries:
        return self.options.retries

    @property
    def search(self) -> Search | None:
        return self.options.search

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, in order; the keys of every cell's ``axes``."""
        return tuple(self.grid.axes)

    @functools.cached_property
    def expansion(self) -> Expansion:
        """The runs, and how many cells each rule was about.

        Raises:
            InputError: a run is not valid, two are the same, none is left, or one does not keep the checkpoints that
                are to be collected.
        """
        expansion = expand(self.grid)
        keep = keeping(self.tracking.checkpoints)
        return (
            expansion
            if keep is None
            else replace(expansion, cells=[self._kept(cell, keep) for cell in expansion.cells])
        )

    def _kept(self, cell: Cell, keep: Mapping[str, object]) -> Cell:
        """The cell, keeping what ``tracking.checkpoints`` asks for."""
        try:
            return replace(cell, config=with_runtime(cell.config, keep))
        except Inconsistent as error:
            where = self.path if error.key == "tracking.checkpoints" else self.position_of(error.key, None)
            raise InputError(
                f"{where}: tracking.checkpoints={self.tracking.checkpoints}: {error.message} (in {cell.title})"
            ) from error

    def cells(self) -> list[Cell]:
        """The runs in order, validated, with their ids.

        Raises:
            InputError: a run is not valid, two are the same, or none is left.
        """
        return self.expansion.cells

    def position_of(self, key: str, value: object) -> Position:
        """Where ``value`` was written for the setting ``key``, or as close as can be told.

        Args:
            key: dotted path of a setting that is no section, such as ``data.root``.
        """
        number = SECTIONS.index(key.partition(".")[0])
        for setting in reversed(tuple(self._settings())):
            at = value_position(setting.node, key, value) if setting.section == number else None
            if at is not None:
                return at
        base = self.grid.base[number]
        at = None if base is None else value_position(base, key, value)
        return at or locate(list(self.grid.base), key) or self.grid.start

    def _settings(self) -> Iterator[Setting]:
        for rule in self.grid.rules:
            yield from rule.settings
        for extra in self.grid.extras:
            yield from extra.settings
        for group in self.grid.groups:
            for axis in group.axes:
                yield from (axis.setting(index) for index in range(len(group)))
        yield from self.grid.overrides


def value_position(section: Node, key: str, value: object) -> Position | None:
    """Where ``value`` stands under ``key`` in the node of the key's section; None if it does not stand there."""
    node: Node | None = section
    for part in key.split(".")[1:]:
        node = node.get(part) if isinstance(node, MapNode) else None
    return node.at if isinstance(node, ScalarNode) and node.value == value else None


def load_experiment(
    path: str | Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    *,
    site: Path | None = None,
) -> Experiment:
    """Read an experiment file. Its runs are expanded and validated by :meth:`Experiment.cells`.

    Args:
        path: the YAML file.
        overrides: ``key=value`` of each ``--set``, in order.
        environment: for ``${env:NAME}``; this process's own if None.
        site: a site profile, which counts as the first file that this one extends: what the file says wins.

    Raises:
        InputError: the file, or one that it extends, is not a valid experiment. One line for each of the first few
            problems, with file, line and column.
    """
    environment = os.environ if environment is None else environment
    document = read_document(str(path), overrides, environment, None if site is None else str(site))
    options = _options(document)
    return Experiment(
        path=Path(path),
        text=document.files[0].content.decode("utf-8-sig"),
        extended=_extended(document),
        digest=document.digest,
        overrides=tuple(overrides),
        site=site,
        options=options,
        grid=parse_grid(document, options.search),
    )


def _extended(document: Document) -> dict[str, str]:
    first, *others = document.files
    folder = first.path.absolute().parent.resolve()
    found: dict[str, str] = {}
    for file in others:
        path = file.path.resolve()
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"extended/{path.name}"
        while name in found:
            name = f"extended/{len(found)}/{path.name}"
        found[name] = file.content.decode("utf-8-sig")
    return found


def load_site(
    path: Path | None, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Options:
    """What a site profile says, as the options of an experiment that says nothing itself.

    Args:
        path: the YAML file; None is a profile that says nothing.
        overrides, environment: as for :func:`load_experiment`.

    Raises:
        InputError: the file, or one that it extends, is not a valid site profile.
    """
    name = None if path is None else str(path)
    document = read_site(name, overrides, os.environ if environment is None else environment)
    at = document.root.at
    named = {"name": Entry(at, ScalarNode("site", at)), **document.root.entries}
    return _options(replace(document, root=MapNode(named, at)))


def _options(document: Document) -> Options:
    entries = {key: entry for key, entry in document.root.entries.items() if key in OPTIONS_SHAPE.fields}
    root = MapNode(entries, document.root.at)
    if "name" not in entries:
        raise fail(root.at, "the experiment has no name; add one, such as `name: my-experiment`")
    try:
        options = Options.model_validate(complete(root, OPTIONS_SHAPE))
    except ValidationError as error:
        raise_problems(problems_of(error, root, OPTIONS_SHAPE))
        raise
    raise_problems([*_report_problems(root, options.report), *_search_problems(root, options)])
    return options


def _search_problems(root: MapNode, options: Options) -> Iterator[Problem]:
    """What of a search only one backend can carry out."""
    node, search = root.get("search"), options.search
    if search is None or not isinstance(node, MapNode) or options.backend.name == "ray":
        return
    needing = {"sampler": search.sampler if search.sampler != "random" else None, "stop": search.stop}
    for key, value in needing.items():
        if value is not None:
            shown = value if isinstance(value, str) else value.name
            instead = "random" if key == "sampler" else "null"
            yield Problem(
                node.entries[key].node.at,
                f"search.{key}={shown} is carried out by Ray Tune, and the backend is {options.backend.name}; "
                f"use backend ray, or --set search.{key}={instead}",
            )


def _report_problems(root: MapNode, report: Report) -> list[Problem]:
    """Rows, columns and ``over`` must name settings of a run."""
    node = root.get("report")
    if not isinstance(node, MapNode):
        return []
    problems = []
    for key in ("rows", "columns", "over"):
        place = node.get(key)
        for number, path in enumerate(getattr(report, key)):
            if place is not None and find(CELL_SHAPE, path.split(".")) is None:
                at = place.items[number].at if isinstance(place, ListNode) else place.at
                problems.append(Problem(at, f"report.{key}: {unknown_path(path)}"))
    return problems

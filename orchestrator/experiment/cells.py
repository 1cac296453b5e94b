"""From the grid to the runs, in order. Pure, deterministic, and linear in the number of runs."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import ValidationError

from orchestrator.experiment.axes import SECTIONS, Setting
from orchestrator.experiment.explain import raise_problems
from orchestrator.experiment.grid import Extra, Grid, Sampling
from orchestrator.experiment.nodes import Position, Problem, plain
from orchestrator.experiment.schema import Resources
from orchestrator.experiment.search import Exhausted, Sample, Scalar, Search, cell_key, samples
from orchestrator.experiment.sections import SectionStore, Tree, locate
from orchestrator.spec import run_id_of_texts
from trainers.config import IDENTITY_SECTIONS, Inconsistent, RunConfig
from trainers.config.methods import GroupedOptions

_RUN_SECTIONS = tuple(enumerate(SECTIONS[:-1]))
_HASHED = tuple((name, SECTIONS.index(name)) for name in IDENTITY_SECTIONS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the experiment.

    Attributes:
        index: position in the experiment, from 0.
        run_id: what the run is known by.
        axes: axis -> label, in the order of the experiment's axes.
        config: the run, fully resolved and validated.
        resources: what each of its attempts asks for.
        sample: where it stands in the experiment's search, if there is one.
    """

    index: int
    run_id: str
    axes: Mapping[str, str]
    config: RunConfig
    resources: Resources
    sample: Sample | None = None

    @property
    def title(self) -> str:
        """The run in one line: ``method=isd seed=0``."""
        return " ".join(f"{name}={value}" for name, value in self.axes.items()) or "the only run"


@dataclass(frozen=True)
class RuleCount:
    """How many cells a rule of ``when`` or ``exclude`` was about."""

    at: Position
    text: str
    cells: int


@dataclass(frozen=True)
class Expansion:
    """The runs of an experiment, and what its rules did: ``when`` changed cells, ``exclude`` removed them."""

    cells: list[Cell]
    changed: list[RuleCount]
    excluded: list[RuleCount]


def expand(grid: Grid) -> Expansion:
    """The runs of ``grid``: the product of its axes without the excluded cells, then the included ones.

    Raises:
        InputError: a cell is not a valid run, two are the same run, a rule excludes nothing, or nothing is left.
    """
    with _collector_paused():
        return _Expander(grid).expand()


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Nothing that an expansion makes is a cycle; looking for one among a million living objects costs 40 % of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


#: Where a cell comes from: the index of a value in each group of axes, or an item of ``include``.
Origin = tuple[int, ...] | Extra


class _Seen(NamedTuple):
    cell: Cell
    origin: Origin


@dataclass
class _Expander:
    """One expansion."""

    grid: Grid
    store: SectionStore = field(default_factory=SectionStore)
    problems: list[Problem] = field(default_factory=list)
    # Inconsistent cells may be many for one mistake; they are counted behind the first one's title.
    inconsistent: dict[Problem, list[str]] = field(default_factory=dict)

    def expand(self) -> Expansion:
        seen: dict[str, _Seen] = {}
        changed, excluded = [0] * len(self.grid.rules), [0] * len(self.grid.excludes)
        for origin, tree, sample in self._sampled(itertools.chain(self._product(), self._included())):
            self.store.apply(tree, self.grid.overrides)
            self._apply_rules(tree, changed)
            if not isinstance(origin, Extra) and self._is_excluded(tree, excluded):
                continue
            cell = self._cell(len(seen), tree, sample)
            if cell is None:
                continue
            first = seen.setdefault(cell.run_id, _Seen(cell, origin))
            if first.cell is not cell and not self.grid.is_varied:
                self.problems.append(self._duplicate(first, _Seen(cell, origin)))
        self._check(excluded, is_empty=not seen)
        return Expansion(
            [first.cell for first in seen.values()],
            [RuleCount(r.pattern.at, r.pattern.text, n) for r, n in zip(self.grid.rules, changed, strict=True)],
            [RuleCount(p.at, p.text, n) for p, n in zip(self.grid.excludes, excluded, strict=True)],
        )

    def _product(self) -> Iterator[tuple[Origin, Tree]]:
        if self.grid.extras and not self.grid.groups:
            return  # a file that only includes lists its runs one by one
        # A component is set before its options, in whichever order the file has the two axes.
        columns = [
            (axis.depth, number, [axis.setting(index) for index in range(len(group))])
            for number, group in enumerate(self.grid.groups)
            for axis in group.axes
        ]
        columns.sort(key=lambda column: column[0])
        for origin in itertools.product(*(range(len(group)) for group in self.grid.groups)):
            tree = list(self.grid.base)
            self.store.apply(tree, [settings[origin[number]] for _, number, settings in columns])
            yield origin, tree

    def _included(self) -> Iterator[tuple[Origin, Tree]]:
        for extra in self.grid.extras:
            tree = list(self.grid.base)
            self.store.apply(tree, extra.settings)
            yield extra, tree

    def _sampled(self, cells: Iterator[tuple[Origin, Tree]]) -> Iterator[tuple[Origin, Tree, Sample | None]]:
        """Each cell once for each of its samples."""
        sampling = self.grid.sampling
        if sampling is None or not sampling.axes:
            yield from ((origin, tree, None) for origin, tree in cells)
            return
        # Cells that differ in their seeds alone share their samples, and what is computed of them.
        known: dict[str, list[tuple[Mapping[str, Scalar], list[Setting]]]] = {}
        for number, (origin, tree) in enumerate(cells):
            key = cell_key(self._settings_of(origin))
            if key not in known:
                known[key] = list(self._drawn(sampling, key))
                self._try_ends(sampling, tree)
            for count, (values, settings) in enumerate(known[key]):
                sampled = list(tree)
                self.store.apply(sampled, settings)
                yield origin, sampled, Sample(number, count, values)

    def _settings_of(self, origin: Origin) -> dict[str, object]:
        if isinstance(origin, Extra):
            return plain(origin.node)  # type: ignore[no-any-return]
        return {
            axis.name: plain(axis.values[index])
            for group, index in zip(self.grid.groups, origin, strict=True)
            for axis in group.axes
        }

    def _drawn(self, sampling: Sampling, key: str) -> Iterator[tuple[Mapping[str, Scalar], list[Setting]]]:
        try:
            for values in samples(sampling.space, sampling.search.seed, key, sampling.search.known_samples):
                yield values, [axis.setting(values[axis.name]) for axis in sampling.axes]
        except Exhausted as error:
            self.problems.append(Problem(sampling.at, f"search.samples={sampling.search.samples}: {error}"))

    def _try_ends(self, sampling: Sampling, tree: Tree) -> None:
        """Validate the ends of each distribution, so that no sample that comes later can be out of range."""
        for axis in sampling.axes:
            for end in axis.distribution.ends:
                tried = list(tree)
                self.store.apply(tried, [axis.setting(end)])
                self.store.validated(tried)

    def _apply_rules(self, tree: Tree, counts: list[int]) -> None:
        for number, rule in enumerate(self.grid.rules):
            if self.store.matches(rule.pattern, tree):
                counts[number] += 1
                self.store.apply(tree, rule.settings)
                self.store.apply(tree, self.grid.overrides)  # --set wins over rules, and later rules see it

    def _is_excluded(self, tree: Tree, counts: list[int]) -> bool:
        result = False
        for number, pattern in enumerate(self.grid.excludes):  # all of them: each must match something
            if self.store.matches(pattern, tree):
                counts[number] += 1
                result = True
        return result

    def _cell(self, index: int, tree: Tree, sample: Sample | None) -> Cell | None:
        sections = self.store.validated(tree)
        if sections is None:
            return None
        axes = {name: self.store.label(name, options, sections) for name, options in self.grid.axes.items()}
        run_id = run_id_of_texts({name: sections[number].text for name, number in _HASHED})
        resources: Resources = sections[-1].value
        try:
            config = RunConfig.model_validate({name: sections[number].value for number, name in _RUN_SECTIONS})
            check_world_size(config, resources)
            if sample is not None and self.grid.sampling is not None:
                check_stop(self.grid.sampling.search, config)
        except (ValidationError, Inconsistent) as error:
            self._add_inconsistent(_inconsistent(error), tree, axes)
            return None
        return Cell(index, run_id, axes, config, resources, sample)

    # Problems.

    def _add_inconsistent(self, cause: Inconsistent, tree: Tree, axes: Mapping[str, str]) -> None:
        # Where nothing of the option is written, its default does not fit: to the method, in all rules so far.
        at = locate(tree, cause.key) or locate(tree, "method") or self.grid.start
        title = " ".join(f"{name}={value}" for name, value in axes.items())
        self.inconsistent.setdefault(Problem(at, cause.message), []).append(title)

    def _position(self, origin: Origin, axis_name: str) -> Position | None:
        """Where the value that a cell has on an axis was written."""
        if isinstance(origin, Extra):
            return origin.at
        for group, index in zip(self.grid.groups, origin, strict=True):
            for axis in group.axes:
                if axis.name == axis_name:
                    return axis.values[index].at
        sampled = self.grid.sampling.axes if self.grid.sampling is not None else ()
        return next((axis.at for axis in sampled if axis.name == axis_name), None)

    def _duplicate(self, first: _Seen, second: _Seen) -> Problem:
        differing = [name for name, value in first.cell.axes.items() if second.cell.axes[name] != value]
        at = next((at for name in differing if (at := self._position(second.origin, name))), None)
        at = at or self._repeated_value(first.origin, second.origin) or self.grid.start
        if not differing:
            message = f"the run {second.cell.title} is in the experiment twice; remove one of the two"
        else:
            message = f"{first.cell.title} and {second.cell.title} are the same run"
            outside = [name for name in differing if not _is_in_identity(name)]
            if outside == differing:
                message += f", because {outside[0]} changes no number of a run; it cannot be an axis"
            else:
                message += "; exclude one of them"
        return Problem(at, f"{message} (run id {second.cell.run_id})")

    def _repeated_value(self, first: Origin, second: Origin) -> Position | None:
        if isinstance(first, Extra) or isinstance(second, Extra):
            return second.at if isinstance(second, Extra) else None
        groups = zip(self.grid.groups, first, second, strict=True)
        return next((group.axes[0].values[new].at for group, old, new in groups if old != new), None)

    def _check(self, excluded: list[int], *, is_empty: bool) -> None:
        for problem, titles in self.inconsistent.items():
            others = f" and {len(titles) - 1} more" if len(titles) > 1 else ""
            where = f" (in {titles[0]}{others})" if titles[0] else ""
            self.problems.append(Problem(problem.at, problem.message + where))
        if not self.grid.is_varied:
            for pattern, count in zip(self.grid.excludes, excluded, strict=True):
                if not count:
                    self.problems.append(
                        Problem(pattern.at, f"exclude {pattern.text} matches no cell; correct it, or remove it")
                    )
        raise_problems([*self.store.problems, *self.problems])
        if is_empty:
            raise_problems([Problem(self.grid.start, "every cell is excluded, so that nothing is left to run")])


def _inconsistent(error: ValidationError | Inconsistent) -> Inconsistent:
    if isinstance(error, Inconsistent):
        return error
    cause = error.errors(include_url=False)[0].get("ctx", {}).get("error")
    assert isinstance(cause, Inconsistent), f"sections that are valid alone fail only together: {error}"
    return cause


def check_world_size(config: RunConfig, resources: Resources) -> None:
    """Whether the batch can be divided over the processes.

    Raises:
        Inconsistent: it cannot.
    """
    world_size, batch, accumulation = resources.world_size, config.train.batch_size, config.train.accumulation
    processes = f"{world_size} processes (nodes={resources.nodes}, processes per node: {resources.processes})"
    if (batch // accumulation) % world_size:
        parts = "" if accumulation == 1 else f" in train.accumulation={accumulation} parts"
        raise Inconsistent(
            "resources",
            f"train.batch_size={batch}{parts} cannot be divided over {processes}; "
            f"use a multiple of {world_size * accumulation}",
        )
    group = config.method.bn_group_size if isinstance(config.method, GroupedOptions) else None
    if group is not None and batch // accumulation // group % world_size:
        groups = batch // accumulation // group
        raise Inconsistent(
            "resources",
            f"the {groups} batch-norm groups of method.bn_group_size={group} cannot be dealt to {processes}; "
            f"use a number of processes that divides {groups}",
        )


def check_stop(search: Search, config: RunConfig) -> None:
    """Whether a search can stop this run early.

    Raises:
        Inconsistent: its metric is not measured before the end, or no epoch is left to stop it at.
    """
    if search.stop is None:
        return
    knn = config.evaluate.knn
    is_measured = search.metric.startswith("eval/knn") and knn is not None and knn.every_epochs is not None
    if search.metric.startswith("eval/") and not is_measured:
        raise Inconsistent(
            "evaluate",
            f"search.stop={search.stop.name} judges runs by {search.metric}, which is not measured before their end; "
            "set evaluate.knn.every_epochs, and search.metric to a metric of knn",
        )
    if search.stop.grace_epochs >= config.train.epochs:
        raise Inconsistent(
            "train.epochs",
            f"search.stop.grace_epochs={search.stop.grace_epochs} leaves nothing to stop of "
            f"train.epochs={config.train.epochs}; use a smaller one",
        )


def _is_in_identity(axis: str) -> bool:
    return axis.split(".", maxsplit=1)[0] in IDENTITY_SECTIONS and axis != "data.root"

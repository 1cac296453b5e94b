"""From the grid to the runs, in order. Pure, deterministic, and linear in the number of runs.

A cell is the sections of its run and the resources. Settings change one section at a time, and the changed section and
its validation are both remembered: a grid of 100,000 cells validates each distinct section once, then combines them.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_type_hints

from pydantic import ValidationError, create_model

from orchestrator.experiment.axes import CELL_SHAPE, SECTIONS, Setting
from orchestrator.experiment.explain import problems_of, raise_problems
from orchestrator.experiment.grid import Extra, Grid
from orchestrator.experiment.labels import label
from orchestrator.experiment.nodes import Entry, MapNode, Node, Position, Problem
from orchestrator.experiment.patterns import SECTION_DEFAULTS, Condition, Pattern
from orchestrator.experiment.schema import Resources
from orchestrator.experiment.settings import complete, merged
from orchestrator.spec import run_id_of_texts, section_text
from trainers.config import IDENTITY_SECTIONS, Inconsistent, RunConfig, Section

_RUN_SECTIONS = SECTIONS[:-1]
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
    """

    index: int
    run_id: str
    axes: Mapping[str, str]
    config: RunConfig
    resources: Resources

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


Tree = list[Node | None]
#: Where a cell comes from: the index of a value in each group of axes, or an item of ``include``.
Origin = tuple[int, ...] | Extra


def _section_models() -> tuple[type[Section], ...]:
    """For each section a model with it as the only field, so that a section can be validated alone."""
    types: dict[str, Any] = {**get_type_hints(RunConfig, include_extras=True), "resources": Resources}
    fields: Iterable[dict[str, Any]] = (
        {name: (types[name], default)} for name, default in zip(SECTIONS, SECTION_DEFAULTS, strict=True)
    )
    return tuple(create_model("OneSection", __base__=Section, **field) for field in fields)


_MODELS = _section_models()


# Compared by identity: cells that share a section share what is computed of it.
@dataclass(frozen=True, slots=True, eq=False)
class _Valid:
    """A validated section, and its part of the text that the run id is the hash of."""

    value: Any
    text: str


class _Seen(NamedTuple):
    cell: Cell
    origin: Origin


@dataclass
class _Expander:
    """One expansion, with everything that was computed before by the identity of its nodes."""

    grid: Grid
    problems: list[Problem] = field(default_factory=list)
    # Inconsistent cells may be many for one mistake; they are counted behind the first one's title.
    inconsistent: dict[Problem, list[str]] = field(default_factory=dict)
    applied: dict[tuple[Node | None, Setting], Node] = field(default_factory=dict)
    answers: dict[tuple[Node | None, Condition], bool] = field(default_factory=dict)
    valid: list[dict[Node | None, _Valid | None]] = field(default_factory=lambda: [{} for _ in SECTIONS])
    labels: dict[tuple[str, _Valid], str] = field(default_factory=dict)

    def expand(self) -> Expansion:
        seen: dict[str, _Seen] = {}
        changed, excluded = [0] * len(self.grid.rules), [0] * len(self.grid.excludes)
        for origin, tree in itertools.chain(self._product(), self._included()):
            self._apply_rules(tree, changed)
            if not isinstance(origin, Extra) and self._is_excluded(tree, excluded):
                continue
            cell = self._cell(len(seen), tree)
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

    # Building trees.

    def _product(self) -> Iterator[tuple[Origin, Tree]]:
        # A component is set before its options, in whichever order the file has the two axes.
        columns = [
            (axis.depth, number, [axis.setting(index) for index in range(len(group))])
            for number, group in enumerate(self.grid.groups)
            for axis in group.axes
        ]
        columns.sort(key=lambda column: column[0])
        base = self._base()
        for origin in itertools.product(*(range(len(group)) for group in self.grid.groups)):
            tree = list(base)
            for _, number, settings in columns:
                self._apply(tree, settings[origin[number]])
            self._apply_all(tree, self.grid.overrides)
            yield origin, tree

    def _included(self) -> Iterator[tuple[Origin, Tree]]:
        for extra in self.grid.extras:
            tree = list(self._base())
            self._apply_all(tree, extra.settings)
            self._apply_all(tree, self.grid.overrides)
            yield extra, tree

    def _base(self) -> Tree:
        return list(self.grid.base)

    def _apply_all(self, tree: Tree, settings: tuple[Setting, ...]) -> None:
        for setting in settings:
            self._apply(tree, setting)

    def _apply(self, tree: Tree, setting: Setting) -> None:
        key = (tree[setting.section], setting)
        node = self.applied.get(key)
        if node is None:
            node = merged(key[0], setting.node, CELL_SHAPE.fields[SECTIONS[setting.section]])
            self.applied[key] = node
        tree[setting.section] = node

    # Rules.

    def _apply_rules(self, tree: Tree, counts: list[int]) -> None:
        for number, rule in enumerate(self.grid.rules):
            if self._matches(rule.pattern, tree):
                counts[number] += 1
                self._apply_all(tree, rule.settings)
                self._apply_all(tree, self.grid.overrides)

    def _is_excluded(self, tree: Tree, counts: list[int]) -> bool:
        result = False
        for number, pattern in enumerate(self.grid.excludes):  # all of them: each must match something
            if self._matches(pattern, tree):
                counts[number] += 1
                result = True
        return result

    def _matches(self, pattern: Pattern, tree: Tree) -> bool:
        return all(self._holds(condition, tree[condition.section]) for condition in pattern.conditions)

    def _holds(self, condition: Condition, node: Node | None) -> bool:
        key = (node, condition)
        answer = self.answers.get(key)
        if answer is None:
            answer = self.answers[key] = condition.holds(node)
        return answer

    # Validation and identity.

    def _cell(self, index: int, tree: Tree) -> Cell | None:
        sections = [self._section(number, node) for number, node in enumerate(tree)]
        valid = [section for section in sections if section is not None]
        if len(valid) < len(sections):
            return None
        axes = {name: self._label(name, valid) for name in self.grid.axes}
        run_id = run_id_of_texts({name: valid[number].text for name, number in _HASHED})
        resources: Resources = valid[-1].value
        values = {name: section.value for name, section in zip(_RUN_SECTIONS, valid, strict=False)}
        try:
            config = RunConfig.model_validate(values)
            _check_world_size(config, resources)
        except (ValidationError, Inconsistent) as error:
            self._add_inconsistent(_inconsistent(error), tree, axes)
            return None
        return Cell(index, run_id, axes, config, resources)

    def _section(self, number: int, node: Node | None) -> _Valid | None:
        known = self.valid[number]
        if node not in known:
            known[node] = self._validate(number, node)
        return known[node]

    def _validate(self, number: int, node: Node | None) -> _Valid | None:
        name = SECTIONS[number]
        values = {} if node is None else {name: complete(node, CELL_SHAPE.fields[name])}
        try:
            value = getattr(_MODELS[number].model_validate(values), name)
        except ValidationError as error:
            assert node is not None, "the defaults of a section are valid"
            self.problems += problems_of(error, MapNode({name: Entry(node.at, node)}, node.at), CELL_SHAPE)
            return None
        return _Valid(value, section_text(value) if name in IDENTITY_SECTIONS else "")

    def _label(self, axis: str, valid: list[_Valid]) -> str:
        section = axis.partition(".")[0]
        key = (axis, valid[SECTIONS.index(section)])
        text = self.labels.get(key)
        if text is None:
            text = self.labels[key] = label({section: key[1].value}, axis, self.grid.axes[axis])
        return text

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
        return None

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
        raise_problems(self.problems)
        if is_empty:
            raise_problems([Problem(self.grid.start, "every cell is excluded, so that nothing is left to run")])


def _inconsistent(error: ValidationError | Inconsistent) -> Inconsistent:
    if isinstance(error, Inconsistent):
        return error
    cause = error.errors(include_url=False)[0].get("ctx", {}).get("error")
    assert isinstance(cause, Inconsistent), f"sections that are valid alone fail only together: {error}"
    return cause


def _check_world_size(config: RunConfig, resources: Resources) -> None:
    world_size = resources.world_size
    if config.train.batch_size % world_size:
        raise Inconsistent(
            "resources",
            f"train.batch_size={config.train.batch_size} cannot be divided over {world_size} processes "
            f"(nodes={resources.nodes}, processes per node: {resources.processes}); use a multiple of {world_size}",
        )


def locate(tree: Tree, key: str) -> Position | None:
    """Where the option ``key``, or else the innermost of its parents that is written, was written."""
    section, *rest = key.split(".")
    node = tree[SECTIONS.index(section)]
    for part in rest:
        below = node.get(part) if isinstance(node, MapNode) else None
        if below is None:
            break
        node = below
    return None if node is None else node.at


def _is_in_identity(axis: str) -> bool:
    return axis.split(".", maxsplit=1)[0] in IDENTITY_SECTIONS and axis != "data.root"

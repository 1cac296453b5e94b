"""The grid of an experiment as typed rules, read from the merged document."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.experiment.axes import (
    CELL_SHAPE,
    SECTIONS,
    AxisGroup,
    Setting,
    override_settings,
    parse_groups,
    pinned,
    settings_of,
    unknown_path,
)
from orchestrator.experiment.document import RUN_SHAPE, Document
from orchestrator.experiment.explain import raise_problems
from orchestrator.experiment.labels import Distinguishing, distinguishing
from orchestrator.experiment.nodes import ListNode, MapNode, Node, Position, Problem, ScalarNode, kind, plain
from orchestrator.experiment.patterns import Pattern, parse_pattern
from orchestrator.experiment.search import Distribution, Search
from orchestrator.experiment.settings import at_path, expanded
from orchestrator.experiment.shape import ComponentShape, Leaf, SectionShape, Shape, find
from trainers.config import IDENTITY_SECTIONS


@dataclass(frozen=True)
class Rule:
    """One item of ``when``: settings for the cells that match a pattern."""

    pattern: Pattern
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Extra:
    """One item of ``include``: a cell of its own, beside the product."""

    at: Position
    settings: tuple[Setting, ...]
    node: MapNode


@dataclass(frozen=True)
class SampledAxis:
    """An axis whose values are sampled."""

    name: str
    at: Position
    distribution: Distribution

    def setting(self, value: object) -> Setting:
        """The setting that a sampled value stands for."""
        section, *rest = self.name.split(".")
        node = ScalarNode(value, self.at)  # type: ignore[arg-type]  # what is sampled is a scalar
        return Setting(SECTIONS.index(section), at_path(rest, node, self.at) if rest else node)


@dataclass(frozen=True)
class Sampling:
    """A search, and where it was written.

    Attributes:
        axes: those that no ``--set`` gives a value; may be none.
    """

    at: Position
    search: Search
    axes: tuple[SampledAxis, ...]

    @property
    def space(self) -> dict[str, Distribution]:
        """Axis -> distribution."""
        return {axis.name: axis.distribution for axis in self.axes}


@dataclass(frozen=True)
class Grid:
    """Everything that the expansion needs.

    Attributes:
        start: where the experiment begins, for problems that nothing else can place.
        base: what holds for all cells; None for a section of which nothing is written. Indexed as SECTIONS.
        groups: the axes, the last one fastest.
        axes: names of all axes in order, those that only ``include`` varies behind them and those that are sampled at
            the end; with what their labels show.
        sampling: how each cell of the product, and each that is included, becomes several; None where it does not.
        overrides: what ``--set`` changes; wins over everything.
        is_varied: see :class:`~orchestrator.experiment.document.Document`.
    """

    start: Position
    base: tuple[Node | None, ...]
    groups: tuple[AxisGroup, ...]
    axes: dict[str, Distinguishing]
    rules: tuple[Rule, ...]
    excludes: tuple[Pattern, ...]
    extras: tuple[Extra, ...]
    sampling: Sampling | None
    overrides: tuple[Setting, ...]
    is_varied: bool


def parse_grid(document: Document, search: Search | None = None) -> Grid:
    """Read the sections of ``document`` that make runs.

    Args:
        search: the typed section of that name.

    Raises:
        InputError: a section has the wrong form, or names what does not exist; the first few problems, one a line.
    """
    root = document.root
    problems: list[Problem] = []
    base = _parse_base(root, problems)
    groups = parse_groups(root.get("grid"), root.get("zip"), problems)
    rules = tuple(_parse_rules(root, problems))
    excludes = tuple(parse_pattern(item, "exclude", problems) for item in _items(root, "exclude", problems))
    includes = [(item, settings_of(item, problems)) for item in _mappings(root, "include", problems)]
    sampling = _parse_sampling(document, search, groups, problems)
    raise_problems(problems)
    return Grid(
        start=root.at,
        base=base,
        groups=tuple(pinned(groups, document.overrides)),
        axes={**_axes(groups, [item for item, _ in includes]), **{axis.name: {} for axis in _sampled(sampling)}},
        rules=rules,
        excludes=excludes,
        extras=tuple(Extra(item.at, settings, item) for item, settings in includes),
        sampling=sampling,
        overrides=override_settings(document.overrides),
        is_varied=document.is_varied,
    )


def _items(root: MapNode, section: str, problems: list[Problem]) -> Iterable[Node]:
    node = root.get(section)
    if node is None:
        return ()
    if isinstance(node, ListNode):
        return node.items
    problems.append(Problem(node.at, f"{section} is {kind(plain(node))}, where a list is expected"))
    return ()


def _mappings(root: MapNode, section: str, problems: list[Problem]) -> Iterable[MapNode]:
    for item in _items(root, section, problems):
        if isinstance(item, MapNode):
            yield item
        else:
            found = kind(plain(item))
            problems.append(Problem(item.at, f"{section} holds {found}, where a mapping of settings is expected"))


def _parse_base(root: MapNode, problems: list[Problem]) -> tuple[Node | None, ...]:
    node = root.get("base")
    sections: list[Node | None] = [None] * len(SECTIONS)
    sections[SECTIONS.index("resources")] = root.get("resources")
    if node is None:
        return tuple(sections)
    if not isinstance(node, MapNode):
        problems.append(Problem(node.at, f"base is {kind(plain(node))}, where a mapping of settings is expected"))
        return tuple(sections)
    for key, (at, _) in node.entries.items():
        if key == "resources":
            problems.append(Problem(at, "resources is a section of the file, beside base and not inside it"))
    for setting in settings_of(node, problems):
        sections[setting.section] = setting.node
    return tuple(sections)


def _parse_rules(root: MapNode, problems: list[Problem]) -> Iterable[Rule]:
    for item in _mappings(root, "when", problems):
        condition, settings = item.get("if"), item.get("set")
        if condition is None or not isinstance(settings, MapNode) or len(item.entries) != 2:
            problems.append(
                Problem(item.at, "a rule of when has two keys: {if: {method: isd}, set: {train.epochs: 5}}")
            )
            continue
        yield Rule(parse_pattern(condition, "if", problems), settings_of(settings, problems))


def _parse_sampling(
    document: Document, search: Search | None, groups: Iterable[AxisGroup], problems: list[Problem]
) -> Sampling | None:
    node = document.root.get("search")
    if search is None or not isinstance(node, MapNode):
        return None
    taken = {axis.name: axis.key_at for group in groups for axis in group.axes}
    space, set_to = node.get("space"), {override.path for override in document.overrides}
    axes = []
    for name, distribution in search.distributions.items():
        assert isinstance(space, MapNode), "the section is valid"
        at, _ = space.entries[name]
        problem = _sampled_axis_problem(name, taken)
        if problem is not None:
            problems.append(Problem(at, problem))
        elif name not in set_to:
            axes.append(SampledAxis(name, space.entries[name].node.at, distribution))
    return Sampling(node.at, search, tuple(axes))


def _sampled_axis_problem(name: str, taken: dict[str, Position]) -> str | None:
    shape = find(RUN_SHAPE, name.split("."))
    if shape is None:
        return f"the axis {unknown_path(name)}"
    if not isinstance(shape, Leaf):
        return f"{name} takes more than a number or a word and cannot be sampled; make it an axis of grid"
    if name in taken:
        return f"{name} is an axis already, at {taken[name]}; keep one of them"
    if name == "seed":
        return "seed cannot be sampled, because samples are compared over seeds; make it an axis of grid"
    if name.partition(".")[0] not in IDENTITY_SECTIONS:
        return f"{name} changes no number of a run; it cannot be sampled"
    return None


def _sampled(sampling: Sampling | None) -> tuple[SampledAxis, ...]:
    return () if sampling is None else sampling.axes


def _axes(groups: Iterable[AxisGroup], includes: Iterable[MapNode]) -> dict[str, Distinguishing]:
    """Every axis with what its labels show; ``include`` may bring values to known axes, and axes of its own."""
    values = {axis.name: list(axis.values) for group in groups for axis in group.axes}
    for item in includes:
        for path, node in _paths(expanded(item, CELL_SHAPE), CELL_SHAPE, frozenset(values)):
            if not path.startswith("resources"):
                values.setdefault(path, []).append(node)
    return {name: distinguishing(nodes) for name, nodes in values.items()}


def _paths(node: Node, shape: Shape | None, axes: Iterable[str], prefix: str = "") -> Iterable[tuple[str, Node]]:
    """The settings below ``node`` as paths: down to an axis, a component that is named, or a plain option."""
    is_component = isinstance(shape, ComponentShape) and isinstance(node, MapNode) and node.get("name") is not None
    if prefix in axes or is_component or not isinstance(node, MapNode) or not node.entries:
        yield prefix, node
        return
    for key, entry in node.entries.items():
        below = shape.fields.get(key) if isinstance(shape, SectionShape) else None
        yield from _paths(entry.node, below, axes, f"{prefix}.{key}" if prefix else key)

"""Settings of runs, and the axes along which they vary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.experiment.document import RUN_SHAPE, Override
from orchestrator.experiment.nodes import ListNode, MapNode, Node, Position, Problem, kind, plain, spelled
from orchestrator.experiment.schema import Resources
from orchestrator.experiment.settings import at_path, expanded, normalised_at
from orchestrator.experiment.shape import SectionShape, closest_path, find, section_shape

#: What a cell consists of: the sections of its run, and the resources that it asks for.
CELL_SHAPE = SectionShape(RUN_SHAPE.model, {**RUN_SHAPE.fields, "resources": section_shape(Resources)})
SECTIONS = tuple(CELL_SHAPE.fields)


# Compared by identity, so that the result of applying a setting to a section can be remembered.
@dataclass(frozen=True, eq=False, slots=True)
class Setting:
    """What to merge into one section of a cell.

    Attributes:
        section: index into :data:`SECTIONS`.
        node: normalised values of the section.
    """

    section: int
    node: Node


@dataclass(frozen=True)
class Axis:
    """A setting that takes several values.

    Attributes:
        name: its dotted path.
        key_at: where the axis was written.
        values: normalised for their place, in order.
    """

    name: str
    key_at: Position
    values: tuple[Node, ...]

    @property
    def depth(self) -> int:
        return self.name.count(".")

    def setting(self, index: int) -> Setting:
        """The setting that the value at ``index`` stands for."""
        section, *rest = self.name.split(".")
        value = self.values[index]
        return Setting(SECTIONS.index(section), at_path(rest, value, self.key_at) if rest else value)


@dataclass(frozen=True)
class AxisGroup:
    """Axes that move together; a single axis of the grid is a group of one."""

    axes: tuple[Axis, ...]

    def __len__(self) -> int:
        return len(self.axes[0].values)


def settings_of(node: MapNode, problems: list[Problem]) -> tuple[Setting, ...]:
    """Settings written as a mapping, with nested or dotted keys; unknown sections go to ``problems``."""
    settings = []
    for key, (at, value) in expanded(node, CELL_SHAPE).entries.items():
        if key in SECTIONS:
            settings.append(Setting(SECTIONS.index(key), value))
        else:
            problems.append(Problem(at, unknown_path(key)))
    return tuple(settings)


def unknown_path(path: str) -> str:
    """The sentence for a path that names no setting of a run."""
    near = closest_path(path, RUN_SHAPE)
    hint = f"; did you mean {near}?" if near else ""
    return f"{path} is not a setting of a run{hint} (sections: {', '.join(RUN_SHAPE.fields)})"


def override_settings(overrides: Iterable[Override]) -> tuple[Setting, ...]:
    """What ``--set`` changes in every cell, in order."""
    result = []
    for override in overrides:
        keys = override.path.split(".")
        value = normalised_at(keys, override.value, CELL_SHAPE)
        nested = at_path(keys, value, override.value.at).entries[keys[0]].node
        result.append(Setting(SECTIONS.index(keys[0]), nested))
    return tuple(result)


def parse_groups(grid: Node | None, zips: Node | None, problems: list[Problem]) -> list[AxisGroup]:
    """The groups of axes of ``grid`` and ``zip``, in the order written."""
    groups: list[AxisGroup] = []
    known: dict[str, Position] = {}
    if grid is not None:
        groups += [AxisGroup((axis,)) for axis in _parse_axes(grid, "grid", known, problems)]
    if zips is not None and not isinstance(zips, ListNode):
        problems.append(
            Problem(zips.at, f"zip is {kind(plain(zips))}, where a list is expected: - {{axis: [..], axis: [..]}}")
        )
    for item in zips.items if isinstance(zips, ListNode) else ():
        axes = _parse_axes(item, "zip", known, problems)
        lengths = {axis.name: len(axis.values) for axis in axes}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            problems.append(Problem(item.at, f"axes of one zip need equally many values; {shown}"))
        elif axes:
            groups.append(AxisGroup(tuple(axes)))
    return groups


def _parse_axes(node: Node, section: str, known: dict[str, Position], problems: list[Problem]) -> list[Axis]:
    if not isinstance(node, MapNode):
        problems.append(Problem(node.at, f"{section} holds {kind(plain(node))}, where a mapping of axes is expected"))
        return []
    axes = []
    for name, (key_at, values) in node.entries.items():
        problem = _axis_problem(name, section, key_at, values, known)
        if problem is not None:
            problems.append(problem)
        elif isinstance(values, ListNode):
            known[name] = key_at
            keys = name.split(".")
            axes.append(Axis(name, key_at, tuple(normalised_at(keys, value, RUN_SHAPE) for value in values.items)))
    return axes


def _axis_problem(name: str, section: str, at: Position, values: Node, known: Mapping[str, Position]) -> Problem | None:
    if name in known:
        return Problem(at, f"{name} is an axis already, at {known[name]}; keep one of them")
    if name.split(".", maxsplit=1)[0] == "resources":
        return Problem(at, f"{name} cannot be an axis, because resources never change a run; set it with `when`")
    if find(RUN_SHAPE, name.split(".")) is None:
        return Problem(at, f"the axis {unknown_path(name)}")
    if not isinstance(values, ListNode):
        value = spelled(plain(values))
        return Problem(values.at, f"{section}.{name}={value} is no list of values; write [{value}], or move it to base")
    if not values.items:
        return Problem(
            values.at, f"{section}.{name} has no values, so that the grid is empty; give it one, or remove it"
        )
    return None


def pinned(groups: Iterable[AxisGroup], overrides: Iterable[Override]) -> list[AxisGroup]:
    """The groups with every axis that ``--set`` names reduced to that value."""
    values = {override.path: override.value for override in overrides}
    result = []
    for group in groups:
        axes = tuple(_pinned_axis(axis, values[axis.name]) if axis.name in values else axis for axis in group.axes)
        if all(axis.name in values for axis in axes):
            axes = tuple(replace(axis, values=axis.values[:1]) for axis in axes)
        result.append(AxisGroup(axes))
    return result


def _pinned_axis(axis: Axis, value: Node) -> Axis:
    node = normalised_at(axis.name.split("."), value, RUN_SHAPE)
    return replace(axis, values=(node,) * len(axis.values))

"""Sections of cells: applying settings to them and validating them, each distinct one once.

Settings change one section at a time and nodes never change, so everything here is remembered by the identity of nodes:
a grid of 100,000 cells merges and validates each distinct section once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model

from orchestrator.experiment.axes import CELL_SHAPE, SECTIONS, Setting
from orchestrator.experiment.explain import problems_of
from orchestrator.experiment.labels import Distinguishing, label
from orchestrator.experiment.nodes import Entry, MapNode, Node, Position, Problem
from orchestrator.experiment.patterns import SECTION_DEFAULTS, Condition, Pattern
from orchestrator.experiment.schema import Resources
from orchestrator.experiment.settings import complete, merged
from orchestrator.spec import section_text
from trainers.config import IDENTITY_SECTIONS, RunConfig, Section

#: A cell before validation: its sections in the order of SECTIONS, None where nothing is written.
Tree = list[Node | None]


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
class Validated:
    """A validated section, and its part of the text that the run id is the hash of."""

    value: Any
    text: str


@dataclass
class SectionStore:
    """Everything that one expansion has computed of sections so far.

    Attributes:
        problems: what validation found, once for each distinct section.
    """

    problems: list[Problem] = field(default_factory=list)
    _applied: dict[tuple[Node | None, Setting], Node] = field(default_factory=dict)
    _answers: dict[tuple[Node | None, Condition], bool] = field(default_factory=dict)
    _validated: list[dict[Node | None, Validated | None]] = field(default_factory=lambda: [{} for _ in SECTIONS])
    _labels: dict[tuple[str, Validated], str] = field(default_factory=dict)

    def apply(self, tree: Tree, settings: Iterable[Setting]) -> None:
        """Merge ``settings`` into ``tree``, in order."""
        for setting in settings:
            key = (tree[setting.section], setting)
            node = self._applied.get(key)
            if node is None:
                node = merged(key[0], setting.node, CELL_SHAPE.fields[SECTIONS[setting.section]])
                self._applied[key] = node
            tree[setting.section] = node

    def matches(self, pattern: Pattern, tree: Tree) -> bool:
        """Whether all conditions of ``pattern`` hold for ``tree``."""
        return all(self._holds(condition, tree[condition.section]) for condition in pattern.conditions)

    def _holds(self, condition: Condition, node: Node | None) -> bool:
        key = (node, condition)
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = condition.holds(node)
        return answer

    def validated(self, tree: Tree) -> list[Validated] | None:
        """The sections of ``tree``, or None if one of them is not valid; what is wrong with it goes to ``problems``."""
        found = [self._section(number, node) for number, node in enumerate(tree)]
        valid = [section for section in found if section is not None]
        return valid if len(valid) == len(found) else None

    def _section(self, number: int, node: Node | None) -> Validated | None:
        known = self._validated[number]
        if node not in known:
            known[node] = self._validate(number, node)
        return known[node]

    def _validate(self, number: int, node: Node | None) -> Validated | None:
        name = SECTIONS[number]
        values = {} if node is None else {name: complete(node, CELL_SHAPE.fields[name])}
        try:
            value = getattr(_MODELS[number].model_validate(values), name)
        except ValidationError as error:
            assert node is not None, "the defaults of a section are valid"
            self.problems += problems_of(error, MapNode({name: Entry(node.at, node)}, node.at), CELL_SHAPE)
            return None
        return Validated(value, section_text(value) if name in IDENTITY_SECTIONS else "")

    def label(self, axis: str, options: Distinguishing, sections: list[Validated]) -> str:
        """The label that a cell with these ``sections`` has on ``axis``."""
        name = axis.partition(".")[0]
        key = (axis, sections[SECTIONS.index(name)])
        text = self._labels.get(key)
        if text is None:
            text = self._labels[key] = label({name: key[1].value}, axis, options)
        return text


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

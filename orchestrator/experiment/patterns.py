"""Patterns of ``when`` and ``exclude``: which cells a rule is about."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.experiment.axes import CELL_SHAPE, SECTIONS, unknown_path
from orchestrator.experiment.document import RUN_SHAPE
from orchestrator.experiment.explain import not_among
from orchestrator.experiment.nodes import ListNode, MapNode, Node, Position, Problem, ScalarNode, kind, plain, spelled
from orchestrator.experiment.schema import Resources
from orchestrator.experiment.settings import ABSENT, leaf_paths, lookup, normalised_at
from orchestrator.experiment.shape import ComponentShape, Leaf, find

#: The value of a section of which nothing is written.
SECTION_DEFAULTS: tuple[Any, ...] = (
    *(
        RUN_SHAPE.model.model_fields[name].get_default(call_default_factory=True, validated_data={})
        for name in SECTIONS[:-1]
    ),
    Resources(),
)


class Test(NamedTuple):
    """One value that an option must have: equal, or matching if it is a glob."""

    keys: tuple[str, ...]
    expected: Any


# Compared by identity: whether a condition holds for a section is remembered.
@dataclass(frozen=True, eq=False, slots=True)
class Condition:
    """What one key of a pattern asks of one section: that all tests of one of its alternatives hold."""

    section: int
    alternatives: tuple[tuple[Test, ...], ...]

    def holds(self, node: Node | None) -> bool:
        """Whether a cell whose section is ``node`` satisfies the condition. None: nothing of it is written."""
        return any(all(self._passes(test, node) for test in tests) for tests in self.alternatives)

    def _passes(self, test: Test, node: Node | None) -> bool:
        shape = CELL_SHAPE.fields[SECTIONS[self.section]]
        return _equal(test.expected, lookup(node, shape, test.keys, SECTION_DEFAULTS[self.section]))


@dataclass(frozen=True)
class Pattern:
    """All of these conditions.

    Attributes:
        at: where it was written.
        text: as it was written, for messages.
    """

    at: Position
    text: str
    conditions: tuple[Condition, ...]


def _equal(expected: Any, actual: Any) -> bool:
    if actual is ABSENT:
        return False
    if isinstance(actual, dict):
        actual = actual.get("name")
    if isinstance(expected, str) and isinstance(actual, str):
        return expected == actual or fnmatch.fnmatchcase(actual, expected)
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    return bool(expected == (list(actual) if isinstance(actual, tuple) else actual))


def parse_pattern(node: Node, rule: str, problems: list[Problem]) -> Pattern:
    """The pattern that ``node`` writes; what is wrong with it goes to ``problems``."""
    if not isinstance(node, MapNode) or not node.entries:
        found = "nothing" if isinstance(node, MapNode) else kind(plain(node))
        problems.append(Problem(node.at, f"{rule} holds {found}, where a pattern is expected, such as {{method: isd}}"))
        return Pattern(node.at, "", ())
    conditions = []
    for path, (key_at, value) in node.entries.items():
        keys = path.split(".")
        if find(CELL_SHAPE, keys) is None:
            problems.append(Problem(key_at, f"the pattern's {unknown_path(path)}"))
            continue
        choices = value.items if isinstance(value, ListNode) else (value,)
        alternatives = [_alternative(keys, choice, problems) for choice in choices]
        conditions.append(Condition(SECTIONS.index(keys[0]), tuple(alternatives)))
    return Pattern(node.at, spelled(plain(node)), tuple(conditions))


def _alternative(keys: Sequence[str], value: Node, problems: list[Problem]) -> tuple[Test, ...]:
    node = normalised_at(keys, value, CELL_SHAPE)
    tests = []
    for path in leaf_paths(node, tuple(keys)):
        leaf = node
        for key in path[len(keys) :]:
            assert isinstance(leaf, MapNode), "leaf_paths goes through mappings"
            leaf = leaf.entries[key].node
        _check_value(path, leaf, problems)
        tests.append(Test(path[1:], plain(leaf)))
    return tuple(tests)


def _check_value(path: Sequence[str], node: Node, problems: list[Problem]) -> None:
    """A name that no component has, or a word that is no choice, could never match."""
    shape = find(CELL_SHAPE, path)
    if shape is None:
        problems.append(Problem(node.at, f"the pattern's {unknown_path('.'.join(path))}"))
        return
    owner = find(CELL_SHAPE, path[:-1])
    known = shape.choices if isinstance(shape, Leaf) else ()
    if isinstance(owner, ComponentShape) and path[-1] == "name":
        known, path = tuple(owner.variants), path[:-1]
    if not known or not isinstance(node, ScalarNode):
        return
    if not any(_equal(node.value, name) for name in known):
        word = spelled(node.value)
        problems.append(Problem(node.at, not_among(f"{'.'.join(path)}={word}", word, known)))

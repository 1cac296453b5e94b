"""Plain values of an experiment file that remember where they were written.

A tree of nodes is never changed: merging makes new mappings that share their parts with the old ones, so a value that
ends up in ten thousand runs still knows its file, line and column, and exists once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.errors import InputError

#: Mappings and lists inside one another. Deeper input is refused, so that walking it may recurse.
MAX_DEPTH = 40

Plain = None | bool | int | float | str


class Position(NamedTuple):
    """Where something was written: a file with its 1-based line and column, or ``--set key=value`` (line 0)."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


# Nodes are compared and hashed by identity, so that results computed from one can be kept in a dictionary.
@dataclass(frozen=True, slots=True, eq=False)
class ScalarNode:
    """Null, a truth value, a number or a text."""

    value: Plain
    at: Position


@dataclass(frozen=True, slots=True, eq=False)
class ListNode:
    items: tuple[Node, ...]
    at: Position


class Entry(NamedTuple):
    """One ``key: value`` of a mapping."""

    key_at: Position
    node: Node


@dataclass(frozen=True, slots=True, eq=False)
class MapNode:
    """A mapping, in the order written."""

    entries: dict[str, Entry]
    at: Position

    def get(self, key: str) -> Node | None:
        """The value of ``key``, or None where the key is not written."""
        entry = self.entries.get(key)
        return None if entry is None else entry.node


Node = ScalarNode | ListNode | MapNode


class Problem(NamedTuple):
    """One thing that is wrong with the user's input."""

    at: Position
    message: str

    def __str__(self) -> str:
        """One line, whatever characters the user's keys and file names have."""
        text = f"{self.at}: {self.message}"
        return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def fail(at: Position, message: str) -> InputError:
    """The error that says ``message`` and where; to be raised by the caller."""
    return InputError(str(Problem(at, message)))


def is_null(node: Node) -> bool:
    """Whether nothing is written at a place, or ``null``."""
    return isinstance(node, ScalarNode) and node.value is None


def plain(node: Node) -> Any:
    """The bare values of ``node``: dictionaries, lists and scalars."""
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            return [plain(item) for item in node.items]
        case MapNode():
            return {key: plain(entry.node) for key, entry in node.entries.items()}


def spelled(value: Any) -> str:
    """A value as YAML writes it in one line, for messages and labels; long ones are cut."""
    text = _flow(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _flow(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case list() | tuple():
            return f"[{', '.join(_flow(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{key}: {_flow(item)}' for key, item in value.items())}}}"
        case str():
            return value if value and value.isprintable() else repr(value)
        case _:
            return str(value)


def kind(value: Any) -> str:
    """What a plain value is, in the words of an experiment file."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case _:
            return "a mapping"

"""One YAML file, or the value of one ``--set``, as nodes with positions. The only module that reads YAML.

Nodes are composed from the parser's events with a stack of our own: nothing is constructed that the text names, deep
nesting cannot exhaust the interpreter's stack, and the size after expanding aliases is counted while it grows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import InputError
from orchestrator.experiment import scalars
from orchestrator.experiment.nodes import (
    MAX_DEPTH,
    Entry,
    ListNode,
    MapNode,
    Node,
    Plain,
    Position,
    ScalarNode,
    fail,
    is_null,
)

MAX_BYTES = 8 * 2**20
#: Values after the expansion of aliases. A grid of 100,000 cells needs far fewer; ten levels of ten aliases far more.
MAX_NODES = 1_000_000

_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class SourceFile:
    """One file as it was read.

    Attributes:
        name: the path as the user (or the file that extends it) wrote it, for messages.
        path: the file itself.
        content: its bytes.
        root: its values.
    """

    name: str
    path: Path
    content: bytes
    root: MapNode


def read_file(name: str, environment: Mapping[str, str]) -> SourceFile:
    """Read one YAML file whose content is a mapping.

    Raises:
        InputError: there is no such file, it cannot be read, or its content is not a mapping in valid YAML.
    """
    path = Path(name)
    content = _read(name, path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise fail(Position(name, line, column), "the file is not UTF-8 text; save it as UTF-8") from error
    start = Position(name, 1, 1)
    root = _compose(text, start, environment)
    if root is None or is_null(root):
        raise fail(start, "the file is empty; an experiment needs at least a name, such as `name: my-experiment`")
    if not isinstance(root, MapNode):
        raise fail(root.at, "the file must hold a mapping of sections, such as `name: my-experiment`")
    return SourceFile(name, path, content, root)


def read_value(text: str, source: str, environment: Mapping[str, str]) -> Node:
    """The value of one ``--set key=value``, in YAML's flow form; nothing at all is null."""
    at = Position(source)
    return _compose(text, at, environment) or ScalarNode(None, at)


def _read(name: str, path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{name}: this is a folder, where an experiment file is expected")
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file{_similar_file(path)}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: the file cannot be read ({reason})") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{name}: the file is larger than {MAX_BYTES // 2**20} MiB, too large for an experiment file")
    return content


def _similar_file(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""


def _compose(text: str, start: Position, environment: Mapping[str, str]) -> Node | None:
    _check_characters(text, start)
    composer = _Composer(start, environment)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise fail(composer.position(mark) if mark else start, _syntax_problem(error, composer)) from error
    except yaml.YAMLError as error:
        raise fail(start, f"this is not valid YAML: {' '.join(str(error).split())}") from error
    return composer.root


def _check_characters(text: str, start: Position) -> None:
    """The parser refuses control characters too, but cannot say where they are."""
    match = _NOT_PRINTABLE.search(text)
    if match is None:
        return
    line_start = text.rfind("\n", 0, match.start()) + 1
    line = text.count("\n", 0, match.start()) + 1
    at = Position(start.source, line, match.start() - line_start + 1) if start.line else start
    raise fail(at, f"the control character #x{ord(match[0]):02x} is not allowed; remove it")


def _syntax_problem(error: yaml.MarkedYAMLError, composer: _Composer) -> str:
    problem = (error.problem or "it cannot be parsed").replace("\n", " ")
    if "cannot start any token" in problem:
        problem += "; indent with spaces, and quote texts that begin with @, `, % or a tab"
    context = " ".join((error.context or "").split())
    begin = composer.position(error.context_mark) if error.context_mark else None
    if not context or begin is None or (error.problem_mark and begin == composer.position(error.problem_mark)):
        return f"this is not valid YAML: {problem}"
    return f"this is not valid YAML: {problem} ({context} that begins at {begin})"


@dataclass
class _Frame:
    """A list or mapping whose end has not come yet."""

    at: Position
    anchor: str | None
    count_before: int
    is_mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    keys: dict[str, Position] = field(default_factory=dict)
    key: tuple[str, Position, bool] | None = None
    merges: list[MapNode] = field(default_factory=list)


class _Composer:
    """Builds the tree from events. One instance per document."""

    def __init__(self, start: Position, environment: Mapping[str, str]) -> None:
        self.root: Node | None = None
        self._start = start
        self._environment = environment
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[Node | None, int]] = {}
        self._count = 0
        self._documents = 0

    def position(self, mark: Any) -> Position:
        """Where a mark of the parser is; a ``--set`` has no lines."""
        return Position(self._start.source, mark.line + 1, mark.column + 1) if self._start.line else self._start

    def take(self, event: yaml.Event) -> None:
        """Advance by one event of the parser."""
        at = self.position(event.start_mark)
        match event:
            case yaml.ScalarEvent():
                self._check_tag(event.tag, at)
                if not self._take_key(event, at):
                    self._add(self._scalar(event, at), event.anchor, size=1)
            case yaml.AliasEvent():
                self._alias(str(event.anchor), at)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._check_tag(event.tag, at)
                self._open(event, at)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._close()
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise fail(at, "a second document starts here; an experiment file holds one")

    @staticmethod
    def _check_tag(tag: str | None, at: Position) -> None:
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise fail(at, f"the tag {shown} is not allowed; an experiment file holds plain values only")

    def _scalar(self, event: yaml.ScalarEvent, at: Position) -> ScalarNode:
        is_unquoted = event.style in (None, "")
        try:
            text, is_reference = scalars.interpolate(event.value, self._environment)
            # A variable that is set to nothing is an empty text, not null.
            is_read = bool(text) if is_reference else is_unquoted
            value: Plain = scalars.resolve(text) if is_read else text
        except ValueError as error:
            raise fail(at, str(error)) from error
        return ScalarNode(value, at)

    def _take_key(self, event: yaml.ScalarEvent, at: Position) -> bool:
        """Whether the scalar is a mapping's key. Keys are text, whatever they look like."""
        frame = self._frames[-1] if self._frames else None
        if frame is None or not frame.is_mapping or frame.key is not None:
            return False
        is_merge = event.value == "<<" and event.style in (None, "")
        first = frame.keys.setdefault(event.value, at)
        if first is not at:
            raise fail(at, f"the key {event.value} stands twice in one mapping, first at {first}; keep one of them")
        frame.key = (event.value, at, is_merge)
        return True

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, at: Position) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.is_mapping and frame.key is None:
            raise fail(at, "a key must be a word; a list or a mapping stands here")
        if len(self._frames) == MAX_DEPTH:
            raise fail(at, f"values are nested more than {MAX_DEPTH} deep")
        if event.anchor is not None:
            self._anchors[event.anchor] = (None, 0)
        self._frames.append(_Frame(at, event.anchor, self._count, isinstance(event, yaml.MappingStartEvent)))

    def _close(self) -> None:
        frame = self._frames.pop()
        node: Node
        if frame.is_mapping:
            # Own keys win over merged ones, and an earlier merged mapping over a later one.
            entries = dict(frame.entries)
            for merged in frame.merges:
                for key, entry in merged.entries.items():
                    entries.setdefault(key, entry)
            node = MapNode(entries, frame.at)
        else:
            node = ListNode(tuple(frame.items), frame.at)
        self._add(
            node, frame.anchor, size=self._count - frame.count_before + 1, counted=self._count - frame.count_before
        )

    def _alias(self, name: str, at: Position) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.is_mapping and frame.key is None:
            raise fail(at, f"a key must be a word; the alias *{name} stands here")
        if name not in self._anchors:
            raise fail(at, f"the alias *{name} has no anchor &{name} before it")
        node, size = self._anchors[name]
        if node is None:
            raise fail(at, f"the alias *{name} stands inside its own anchor &{name}")
        self._add(node, None, size=size, at=at)

    def _add(self, node: Node, anchor: str | None, *, size: int, counted: int = 0, at: Position | None = None) -> None:
        """Put ``node`` where it belongs. ``size`` is its number of values, of which ``counted`` are already counted."""
        self._count += size - counted
        if self._count > MAX_NODES:
            raise fail(at or node.at, f"the aliases of this file expand to more than {MAX_NODES:,} values")
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if not self._frames:
            self.root = node
            return
        frame = self._frames[-1]
        if not frame.is_mapping:
            frame.items.append(node)
            return
        assert frame.key is not None, "the parser gives a key before each value"
        key, key_at, is_merge = frame.key
        frame.key = None
        if is_merge:
            frame.merges.extend(_merged_mappings(node, key_at))
        else:
            frame.entries[key] = Entry(key_at, node)


def _merged_mappings(node: Node, at: Position) -> list[MapNode]:
    found = [item for item in (node.items if isinstance(node, ListNode) else (node,)) if isinstance(item, MapNode)]
    if not found or (isinstance(node, ListNode) and len(found) < len(node.items)):
        raise fail(at, "<< merges mappings; give it an alias of a mapping, or a list of such aliases")
    return found

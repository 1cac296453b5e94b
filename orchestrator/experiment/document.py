"""An experiment file with everything it extends and every ``--set``, merged into one mapping of sections."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.experiment import source
from orchestrator.experiment.nodes import (
    Entry,
    ListNode,
    MapNode,
    Node,
    Position,
    fail,
    is_null,
    kind,
    plain,
    spelled,
)
from orchestrator.experiment.schema import GRID_SECTIONS, TOP_LEVEL, Options
from orchestrator.experiment.settings import at_path, expanded, merged, normalised, split_path
from orchestrator.experiment.shape import closest, closest_path, find, section_shape
from orchestrator.experiment.source import SourceFile
from trainers.config import RunConfig

MAX_FILES = 50

#: Sections of a site profile: where and how runs are carried out. None of them takes part in what a run is.
SITE_SECTIONS = ("resources", "backend", "tracking", "retries")

RUN_SHAPE = section_shape(RunConfig)
OPTIONS_SHAPE = section_shape(Options)


@dataclass(frozen=True)
class Override:
    """One ``--set`` of a setting of all runs.

    Attributes:
        path: dotted, without ``base.``.
        value: as written, not normalised.
    """

    path: str
    value: Node


@dataclass(frozen=True)
class Document:
    """What the user wrote, in one piece.

    Attributes:
        files: the experiment file first, then what it extends, each file once.
        root: the sections, merged; ``base`` is normalised and without dotted keys.
        overrides: settings of runs given by ``--set``, in order.
        is_varied: whether a ``--set`` changes which runs there are. A rule that was written for the file as it is may
            then exclude nothing, and cells may become the same run: neither is a mistake.
    """

    files: tuple[SourceFile, ...]
    root: MapNode
    overrides: tuple[Override, ...]
    is_varied: bool

    @property
    def digest(self) -> str:
        """SHA-256 over the bytes of all files, as hexadecimal digits."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{len(file.content)}:".encode() + file.content)
        return digest.hexdigest()


def read_document(
    name: str, assignments: Sequence[str], environment: Mapping[str, str], site: str | None = None
) -> Document:
    """Read an experiment file, what it extends, and the ``key=value`` of each ``--set``.

    Args:
        site: a site profile, merged as if it were the first file that the experiment extends. It is not one of
            :attr:`Document.files`: the experiment is the same wherever it is carried out.

    Raises:
        InputError: a file or an assignment cannot be read, or sets what does not exist.
    """
    files: dict[Path, SourceFile] = {}
    root = _read_extended(name, environment, files, chain=())
    if site is not None:
        root = _merged_sections(_read_site(site, environment), root)
    return _assigned(root, tuple(files.values()), assignments, environment)


def read_site(name: str | None, assignments: Sequence[str], environment: Mapping[str, str]) -> Document:
    """Read a site profile (none is one that says nothing), what it extends, and the ``key=value`` of each ``--set``.

    Raises:
        InputError: a file or an assignment cannot be read, or holds more than a site profile may.
    """
    root = MapNode({}, Position("no site profile")) if name is None else _read_site(name, environment)
    return _assigned(root, (), assignments, environment)


def _read_site(name: str, environment: Mapping[str, str]) -> MapNode:
    root = _read_extended(name, environment, {}, chain=())
    for key, (at, _) in root.entries.items():
        if key not in SITE_SECTIONS:
            sections = ", ".join(SITE_SECTIONS)
            raise fail(at, f"{key} is no section of a site profile, which says where runs are carried out ({sections})")
    return root


def _assigned(
    root: MapNode, files: tuple[SourceFile, ...], assignments: Sequence[str], environment: Mapping[str, str]
) -> Document:
    overrides: list[Override] = []
    is_varied = False
    for assignment in assignments:
        keys, value = _parse_assignment(assignment, environment)
        if keys[0] in TOP_LEVEL and keys[0] != "base":
            root = _with_section(root, keys, value)
        if keys[0] not in TOP_LEVEL or keys[0] in ("base", "resources"):
            overrides.append(Override(".".join(keys[keys[0] == "base" :]), value))
        is_varied = is_varied or keys[0] not in OPTIONS_SHAPE.fields
    return Document(files, _without_nulls(root), tuple(overrides), is_varied)


def _without_nulls(root: MapNode) -> MapNode:
    """A section of which nothing is left, such as one whose lines are all commented out, is as good as not written."""
    entries = {key: entry for key, entry in root.entries.items() if key == "name" or not is_null(entry.node)}
    return MapNode(entries, root.at)


def _read_extended(
    name: str, environment: Mapping[str, str], files: dict[Path, SourceFile], chain: tuple[tuple[Path, str], ...]
) -> MapNode:
    """The sections of a file over those of the files it extends, in order. Collects every file in ``files``."""
    file = source.read_file(name, environment)
    identity = file.path.resolve()
    files.setdefault(identity, file)
    if len(files) > MAX_FILES:
        raise InputError(f"{name}: more than {MAX_FILES} files extend one another")
    _check_top_level(file.root)
    own = _normalised_sections(file.root)
    result = MapNode({}, own.at)
    for at, path in _extended_paths(file):
        cycle = [*chain, (identity, name)]
        if path.resolve() in [known for known, _ in cycle]:
            names = " -> ".join([shown for _, shown in cycle] + [str(path)])
            raise fail(at, f"the files extend one another in a circle: {names}")
        result = _merged_sections(result, _read_extended(str(path), environment, files, tuple(cycle)))
    return _merged_sections(result, own)


def _check_top_level(root: MapNode) -> None:
    for key, (at, _) in root.entries.items():
        if key in TOP_LEVEL:
            continue
        near = f"base.{key}" if find(RUN_SHAPE, key.split(".")) else closest(key, TOP_LEVEL)
        if near is None and (setting := closest_path(key, RUN_SHAPE)):
            near = f"base.{setting}"
        hint = f"; did you mean {near}?" if near else ""
        raise fail(at, f"{key} is not a section of an experiment file{hint} (sections: {', '.join(TOP_LEVEL)})")


def _extended_paths(file: SourceFile) -> list[tuple[Position, Path]]:
    """The files that ``file`` extends, as paths from the current folder, with where they are named."""
    node = file.root.get("extends")
    if node is None or is_null(node):
        return []
    result = []
    for item in node.items if isinstance(node, ListNode) else (node,):
        value = plain(item)
        if not isinstance(value, str):
            raise fail(item.at, f"extends holds {kind(value)}, where the path of a file is expected")
        path = Path(file.name).parent / value
        if not _is_file(path):
            raise fail(item.at, f"extends {spelled(value)}, and there is no file {path}")
        result.append((item.at, path))
    return result


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _normalised_sections(root: MapNode) -> MapNode:
    entries = {key: Entry(at, _normalised_section(key, node)) for key, (at, node) in root.entries.items()}
    entries.pop("extends", None)
    return MapNode(entries, root.at)


def _normalised_section(key: str, node: Node) -> Node:
    if key == "base" and isinstance(node, MapNode):
        return expanded(node, RUN_SHAPE)
    return node if key in GRID_SECTIONS else normalised(node, OPTIONS_SHAPE.fields.get(key))


def _merged_sections(below: MapNode, above: MapNode) -> MapNode:
    entries = dict(below.entries)
    for key, (at, node) in above.entries.items():
        shape = RUN_SHAPE if key == "base" else OPTIONS_SHAPE.fields.get(key)
        old = entries.get(key)
        if old is None:
            entries[key] = Entry(at, node)
        else:
            entries[key] = Entry(at, _more_rules(old.node, node) if key == "when" else merged(old.node, node, shape))
    return MapNode(entries, above.at)


def _more_rules(below: Node, above: Node) -> Node:
    """The rules of a file after those of what it extends, so that recipes can be combined.

    A rule that comes on two ways, from a file that is extended twice, stays where it came first.
    """
    if not isinstance(below, ListNode) or not isinstance(above, ListNode):
        return above
    known = {rule.at for rule in below.items}
    return ListNode((*below.items, *(rule for rule in above.items if rule.at not in known)), above.at)


def _parse_assignment(assignment: str, environment: Mapping[str, str]) -> tuple[tuple[str, ...], Node]:
    at = Position(f"--set {assignment}")
    key, equals, text = assignment.partition("=")
    keys = split_path(key.strip(), at)
    if not equals or not all(keys):
        raise fail(at, "write --set key=value, such as --set train.epochs=5")
    value = source.read_value(text, at.source, environment)
    if keys[0] == "extends":
        raise fail(at, "extends cannot be set; write it into the file")
    if keys[0] == "base" and len(keys) == 1:
        raise fail(at, "name the setting, such as --set train.epochs=5")
    if keys[0] not in TOP_LEVEL and keys[0] not in RUN_SHAPE.fields:
        first = closest(keys[0], [*RUN_SHAPE.fields, *TOP_LEVEL])
        near = first if first in TOP_LEVEL else closest_path(".".join(keys), RUN_SHAPE)
        raise fail(at, f"{'.'.join(keys)} is not a setting" + (f"; did you mean {near}?" if near else ""))
    return keys, value


def _with_section(root: MapNode, keys: Sequence[str], value: Node) -> MapNode:
    """``root`` with one value replaced. The name of an axis has dots itself: ``grid.data.profile`` is two keys."""
    section, rest = keys[0], list(keys[1:])
    if section == "grid" and rest:
        rest = [".".join(rest)]
    if not rest and section in GRID_SECTIONS:
        return MapNode({**root.entries, section: Entry(value.at, value)}, root.at)
    if not rest:
        value = normalised(value, OPTIONS_SHAPE.fields.get(section))
    return _merged_sections(root, at_path([section, *rest], value, value.at))

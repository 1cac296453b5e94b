"""Merging of settings: one rule for ``extends``, ``base``, the grid, ``include``, ``when`` and ``--set``.

What is written above wins over what is below. Mappings merge key by key; lists and scalars replace. A component that
is merged over one of the same name, or that names none, adds its options; one with another name replaces it whole,
because options belong to their component.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from orchestrator.experiment.nodes import MAX_DEPTH, Entry, ListNode, MapNode, Node, Position, ScalarNode, fail, plain
from orchestrator.experiment.shape import ComponentShape, Leaf, ListShape, SectionShape, Shape, child


def normalised(node: Node, shape: Shape | None) -> Node:
    """``node`` with every component in its long form ``{name: ..., option: ...}``."""
    if isinstance(node, ScalarNode):
        if isinstance(node.value, str) and isinstance(shape, SectionShape | ComponentShape) and shape.has_name:
            return MapNode({"name": Entry(node.at, node)}, node.at)
        return node
    if isinstance(node, ListNode):
        if not isinstance(shape, ListShape):
            return node
        return ListNode(tuple(normalised(item, shape.item) for item in node.items), node.at)
    if shape is None or isinstance(shape, Leaf | ListShape):
        return node
    name = component_name(node)
    return MapNode(
        {key: Entry(at, normalised(value, child(shape, key, name))) for key, (at, value) in node.entries.items()},
        node.at,
    )


def component_name(node: Node | None) -> str | None:
    """The ``name`` in a component's long form, None where none is written."""
    name = node.get("name") if isinstance(node, MapNode) else None
    return name.value if isinstance(name, ScalarNode) and isinstance(name.value, str) else None


def merged(below: Node | None, above: Node, shape: Shape | None) -> Node:
    """``above`` over ``below``, both normalised. Neither is changed; unchanged parts are shared."""
    if not isinstance(below, MapNode) or not isinstance(above, MapNode):
        return above
    below_name, above_name = component_name(below), component_name(above)
    if isinstance(shape, ComponentShape):
        below_name = below_name or shape.default_name
        if above_name is not None and above_name != below_name:
            return above
    entries = dict(below.entries)
    for key, (key_at, node) in above.entries.items():
        old = entries.get(key)
        new = node if old is None else merged(old.node, node, child(shape, key, below_name))
        entries[key] = Entry(key_at, new)
    return MapNode(entries, above.at)


def expanded(node: MapNode, shape: Shape) -> MapNode:
    """Settings with dotted keys (``train.epochs: 5``) as nested mappings, normalised.

    Raises:
        InputError: one option is set twice, through a dotted key and through a nested one, or a path is absurdly long.
    """
    result: Node = MapNode({}, node.at)
    seen: dict[tuple[str, ...], Position] = {}
    for key, (key_at, value) in node.entries.items():
        keys = split_path(key, key_at)
        setting = at_path(keys, normalised_at(keys, value, shape), key_at)
        for leaf in leaf_paths(setting):
            first = next((at for path, at in seen.items() if path[: len(leaf)] == leaf[: len(path)]), None)
            if first is not None:
                raise fail(key_at, f"{'.'.join(leaf)} is set twice in one mapping, first at {first}; keep one of them")
        seen |= dict.fromkeys(leaf_paths(setting), key_at)
        result = merged(result, setting, shape)
    assert isinstance(result, MapNode)
    return MapNode(result.entries, node.at)


def split_path(path: str, at: Position) -> tuple[str, ...]:
    """The keys of a dotted path.

    Raises:
        InputError: there are more than anything has; what comes after may go down them one call at a time.
    """
    keys = tuple(path.split("."))
    if len(keys) > MAX_DEPTH:
        raise fail(at, f"{path[:40]}... names nothing: it goes {len(keys)} deep")
    return keys


def at_path(keys: Sequence[str], node: Node, key_at: Position) -> MapNode:
    """``node`` below the path ``keys``, which was written at ``key_at``."""
    for key in reversed(keys):
        node = MapNode({key: Entry(key_at, node)}, key_at)
    assert isinstance(node, MapNode), "a path has at least one key"
    return node


def normalised_at(keys: Iterable[str], node: Node, shape: Shape) -> Node:
    """``node``, normalised for its place ``keys`` below ``shape``."""
    places: list[Shape | None] = [shape]
    for key in keys:
        places = [below for place in places for name in _names(place) if (below := child(place, key, name)) is not None]
    return normalised(node, places[0] if places else None)


def _names(shape: Shape | None) -> Iterable[str | None]:
    return shape.variants if isinstance(shape, ComponentShape) else (None,)


def leaf_paths(node: Node, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of everything below ``node`` that is not a mapping."""
    if not isinstance(node, MapNode):
        return [prefix]
    return [path for key, entry in node.entries.items() for path in leaf_paths(entry.node, (*prefix, key))]


def complete(node: Node, shape: Shape | None) -> Any:
    """The bare values of a normalised node, each component with its name, as the typed models want them."""
    if isinstance(node, ListNode) and isinstance(shape, ListShape):
        return [complete(item, shape.item) for item in node.items]
    if not isinstance(node, MapNode):
        return plain(node)
    name = component_name(node)
    values = {key: complete(entry.node, child(shape, key, name)) for key, entry in node.entries.items()}
    if isinstance(shape, ComponentShape):
        values.setdefault("name", shape.default_name)
    return values


#: What :func:`lookup` answers for an option that the component at hand does not have.
ABSENT = object()


def lookup(node: Node | None, shape: Shape | None, keys: Sequence[str], default: Any) -> Any:
    """The value at the path ``keys`` of a run's settings, written or by default.

    Args:
        node: normalised settings at one place; None where nothing is written there.
        shape: the shape of this place.
        keys: the path below this place.
        default: the value of the whole place when nothing is written: a model, or a bare value.

    Returns:
        A bare value, with components and sections as mappings, or :data:`ABSENT`.
    """
    if node is None:
        return _below_model(default, keys)
    if not keys:
        return complete(node, shape)
    if not isinstance(node, MapNode):
        return ABSENT
    name = component_name(node)
    section = shape
    if isinstance(shape, ComponentShape):
        section = shape.variants.get(name or shape.default_name)
    if not isinstance(section, SectionShape) or keys[0] not in section.fields:
        return ABSENT
    field = section.model.model_fields[keys[0]]
    below = field.get_default(call_default_factory=True, validated_data={})
    return lookup(node.get(keys[0]), section.fields[keys[0]], keys[1:], below)


def _below_model(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if not isinstance(value, BaseModel) or key not in type(value).model_fields:
            return ABSENT
        value = getattr(value, key)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value

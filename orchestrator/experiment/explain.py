"""Validation problems in our own words: what was found, where, what is expected, and the nearest valid spelling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pydantic import ValidationError

from orchestrator.errors import InputError
from orchestrator.experiment.nodes import ListNode, MapNode, Node, Position, Problem, kind, plain, spelled
from orchestrator.experiment.shape import (
    ComponentShape,
    Leaf,
    ListShape,
    SectionShape,
    Shape,
    closest,
    closest_path,
    find,
)

MAX_SHOWN = 5


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise one :class:`InputError` for all of ``problems``, one line each, the first few of many; nothing for none."""
    unique = list(dict.fromkeys(problems))
    if not unique:
        return
    lines = [str(problem) for problem in unique[:MAX_SHOWN]]
    if len(unique) > MAX_SHOWN:
        lines.append(f"... and {len(unique) - MAX_SHOWN} more problems")
    raise InputError("\n".join(lines))


def problems_of(error: ValidationError, node: MapNode, shape: SectionShape) -> list[Problem]:
    """What ``error`` says about ``node``, one problem for each mistake.

    Args:
        error: from validating the bare values of ``node``.
        node: normalised settings.
        shape: the shape of ``node``; also where better spellings are looked for.
    """
    details = error.errors(include_url=False)
    places = [_place(detail["loc"], node, shape) for detail in details]
    # A list that is too short is reported once for each value it lacks; the last one tells the length.
    last_lacking = {
        place.path: place
        for detail, place in zip(details, places, strict=True)
        if _is_lacking(detail["loc"], detail["type"])
    }
    result: list[Problem] = []
    for detail, place in zip(details, places, strict=True):
        if _is_lacking(detail["loc"], detail["type"]):
            if last_lacking[place.path] is place:
                result.append(Problem(place.at, _too_few(place, int(detail["loc"][-1]) + 1)))
            continue
        result.append(_problem(detail["type"], detail.get("ctx", {}), detail["msg"], place, shape))
    return result


def _is_lacking(loc: Sequence[int | str], type_: str) -> bool:
    return type_ == "missing" and isinstance(loc[-1], int)


class Owner(NamedTuple):
    """The section or component that has, or has not, an option.

    Attributes:
        shape: None where none is known.
        path: dotted; empty for the whole run or file.
        component: its name, if it is a component.
    """

    shape: SectionShape | None
    path: str
    component: str | None


@dataclass(frozen=True)
class Place:
    """Where in the settings a problem is.

    Attributes:
        path: dotted, without list indices.
        index: of the offending item where ``path`` holds a list.
        node: the value there; None where nothing is written.
        key_at, at: where the key and the value were written, or else what contains them.
        shape: what may stand there; None if nothing may.
        owner: what the last key of ``path`` is an option of.
    """

    path: str
    index: int | None
    node: Node | None
    key_at: Position
    at: Position
    shape: Shape | None
    owner: Owner

    @property
    def key(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def value(self) -> Any:
        return None if self.node is None else plain(self.node)

    @property
    def found(self) -> str:
        """``path=value``, as the user would write it."""
        return self.path if self.node is None else f"{self.path}={spelled(self.value)}"

    @property
    def what(self) -> str:
        """The offending value: ``path=value``, or the item of a list there."""
        if self.index is None or not isinstance(self.value, list):
            return self.found
        return f"{self.found} holds {spelled(self.value[self.index])}, which"

    def item(self, index: int) -> Place:
        """The place of one item of the list here."""
        items = self.node.items if isinstance(self.node, ListNode) else ()
        at = items[index].at if index < len(items) else self.at
        if isinstance(self.shape, ListShape) and index < len(items):
            return Place(f"{self.path}[{index}]", None, items[index], at, at, self.shape.item, self.owner)
        return replace(self, index=index, key_at=at, at=at, shape=None)

    def option(self, key: str, owner: Owner) -> Place:
        """The place of ``key`` in the mapping here."""
        path = f"{self.path}.{key}" if self.path else key
        shape = owner.shape.fields.get(key) if owner.shape else None
        entry = self.node.entries.get(key) if isinstance(self.node, MapNode) else None
        if entry is None:
            return Place(path, None, None, self.at, self.at, shape, owner)
        return Place(path, None, entry.node, entry.key_at, entry.node.at, shape, owner)


def _place(loc: Sequence[int | str], node: Node, shape: Shape) -> Place:
    place = Place("", None, node, node.at, node.at, shape, Owner(None, "", None))
    component: str | None = None
    for step in loc:
        if isinstance(step, int):
            place = place.item(step)
        elif isinstance(place.shape, ComponentShape) and component is None:
            component = step  # pydantic names the component on the way to its options
        else:
            owner = place.shape
            if isinstance(owner, ComponentShape):
                owner = owner.variants.get(component or "")
            place = place.option(step, Owner(owner if isinstance(owner, SectionShape) else None, place.path, component))
            component = None
    return place


def _problem(type_: str, context: Mapping[str, Any], message: str, place: Place, root: SectionShape) -> Problem:
    if type_ == "extra_forbidden":
        return Problem(place.key_at, unknown_option(place, root))
    if type_ == "missing":
        return Problem(place.at, f"{place.path} is missing")
    if type_ == "value_error":
        cause = context["error"]
        return Problem(place.at, f"{place.path}: {cause}")
    if type_ in _EXPECTED:
        return Problem(place.at, _wrong_type(place, _EXPECTED[type_]))
    if type_ in _SENTENCES:
        return Problem(place.at, _SENTENCES[type_](place, context))
    return Problem(place.at, f"{place.found}: {message[:1].lower()}{message[1:]}")


def unknown_option(place: Place, root: SectionShape) -> str:
    """The sentence for a key that its section or component does not have."""
    shape, path, component = place.owner
    assert shape is not None, "only a section can refuse a key"
    options = [key for key in shape.fields if not (key == "name" and component)]
    if component:
        sentence = f"{place.path} is not an option of {path.rpartition('.')[2]} {component}"
    else:
        sentence = f"{place.path} is not an option" + (f" of {path}" if path else "")
    near = closest(place.key, options)
    if near is None and component and (others := _components_with(place.key, path, root)):
        return f"{sentence}, but of {', '.join(others)} (options: {', '.join(options) or 'none'})"
    if near is None and not component:
        elsewhere = closest_path(place.path, root)
        near = elsewhere if elsewhere and elsewhere != place.path else None
    hint = f"; did you mean {near}?" if near else ""
    return f"{sentence}{hint} (options: {', '.join(options) or 'none'})"


def _components_with(key: str, path: str, root: SectionShape) -> list[str]:
    """The components that may stand at ``path`` and have the option ``key``."""
    shape = find(root, path.split("."))
    variants = shape.variants if isinstance(shape, ComponentShape) else {}
    return [name for name, variant in variants.items() if key in variant.fields]


#: What is expected, for the error types that say "this is something else".
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _wrong_type(place: Place, expected: str) -> str:
    value = place.value
    if place.index is not None and isinstance(value, list):
        return f"{place.what} is {kind(value[place.index])}, where {expected} is expected"
    if isinstance(place.shape, ComponentShape):
        expected = f"a name ({', '.join(place.shape.variants)}) or a mapping with a name"
    hint = ""
    if expected == "true or false" and isinstance(value, str):
        hint = "; write true or false, without quotes"
    elif expected == "text" and isinstance(value, int | float):
        hint = f'; put it into quotes: "{spelled(value)}"'
    elif expected in ("a whole number", "a number") and _looks_like_number(value):
        hint = f"; write it without quotes: {value}"
    found = f"{place.path} is null" if value is None else f"{place.found} is {kind(value)}"
    return f"{found}, where {expected} is expected{hint}"


def _looks_like_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def _too_few(place: Place, expected: int) -> str:
    return f"{place.found} has too few values; {expected} are expected"


def not_among(found: str, word: str, known: Sequence[str]) -> str:
    """The sentence for a word that is none of a closed set."""
    near = closest(word, known)
    hint = f"; did you mean {near}?" if near else ""
    return f"{found} is not known{hint} (known: {', '.join(known)})"


def _unknown_component(place: Place, context: Mapping[str, Any]) -> str:
    name = place.node.get("name") if isinstance(place.node, MapNode) else None
    assert isinstance(place.shape, ComponentShape), "only components have tags"
    word = spelled(plain(name)) if name is not None else spelled(context.get("tag"))
    return not_among(f"{place.path}={word}", word, list(place.shape.variants))


def _not_literal(place: Place, context: Mapping[str, Any]) -> str:
    choices = place.shape.choices if isinstance(place.shape, Leaf) else ()
    return not_among(place.found, spelled(place.value), list(choices) or [str(context["expected"])])


def _bound(words: str, key: str) -> Callable[[Place, Mapping[str, Any]], str]:
    def sentence(place: Place, context: Mapping[str, Any]) -> str:
        return f"{place.what} is out of range; {words} {spelled(context[key])} is expected"

    return sentence


def _length(place: Place, context: Mapping[str, Any]) -> str:
    least, most = context.get("min_length"), context.get("max_length")
    expected = f"at least {least}" if least is not None else f"at most {most}"
    few = "few" if least is not None else "many"
    return f"{place.found} has too {few} values; {expected} {'is' if (least or most) == 1 else 'are'} expected"


_SENTENCES: Mapping[str, Callable[[Place, Mapping[str, Any]], str]] = {
    "union_tag_invalid": _unknown_component,
    "union_tag_not_found": _unknown_component,
    "literal_error": _not_literal,
    "greater_than": _bound("more than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "too_short": _length,
    "too_long": _length,
}

#: The kinds of validation errors that have their own words; the models can raise no other.
TRANSLATED = frozenset({"extra_forbidden", "missing", "value_error", *_EXPECTED, *_SENTENCES})

"""What an unquoted word of an experiment file means: the YAML 1.2 core schema, and references to the environment.

PyYAML itself follows YAML 1.1, in which ``1e-3`` is text, ``no`` is false and ``12:00:00`` is 43200. Nobody who writes
a learning rate, a country or a time limit means that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.experiment.nodes import Plain

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
#: JSON readers and torch's seeds end at 64 bits.
_LARGEST = 2**64 - 1
_LONGEST_NUMBER = 400

_REFERENCE = re.compile(r"\$\$\{|\$\{env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}|\$\{[^}]*\}?")


def resolve(text: str) -> Plain:
    """The value of an unquoted scalar.

    Raises:
        ValueError: the number is not finite, or larger than 64 bits.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0].isalpha():
        return text
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if not _FLOAT.fullmatch(text) and not _INT.fullmatch(text):
        return text
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits is too long")
    return _number(text)


def _number(text: str) -> int | float:
    if _INT.fullmatch(text):
        bases = {"0o": 8, "0x": 16}
        whole = int(text, bases.get(text[:2], 10))
        if abs(whole) > _LARGEST:
            raise ValueError(f"{text} does not fit into 64 bits")
        return whole
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large for a number")
    return number


def interpolate(text: str, environment: Mapping[str, str]) -> tuple[str, bool]:
    """``text`` with every ``${env:NAME}`` and ``${env:NAME:-default}`` replaced; ``$${`` stands for a literal ``${``.

    As in a shell, ``:-`` also replaces a variable that is set to nothing.

    Returns:
        The new text, and whether the whole text was one reference (its value is then read like an unquoted word).

    Raises:
        ValueError: a variable is not set and has no default, or a reference is misspelt.
    """
    if "${" not in text:
        return text, False

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match["name"], match["default"]
        if name is None:
            raise ValueError(f"{match[0]} is no reference; write ${{env:NAME}}, or $${{ for the characters ${{")
        if default is not None:
            return environment.get(name) or default[2:]
        if name not in environment:
            raise ValueError(f"the environment variable {name} is not set; set it, or write ${{env:{name}:-default}}")
        return environment[name]

    whole = _REFERENCE.fullmatch(text)
    return _REFERENCE.sub(value, text), bool(whole and whole["name"])

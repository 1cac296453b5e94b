"""Accuracy block by block: what a vision transformer knows at which depth (SDSSL's early exits)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

#: Protocol, number of the block from 1, and the network where it is not the one that the paper evaluates.
_LAYER = re.compile(r"eval/(.+)_layer(\d+)(_[a-z]+)?/top1")
_WHOLE = re.compile(r"eval/([^/]+)/top1")


def layer_accuracies(metrics: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Protocol and network, such as ``knn_teacher`` -> number of the block -> accuracy in percent, in order."""
    found: dict[str, dict[int, float]] = {}
    for name, value in metrics.items():
        match = _LAYER.fullmatch(name)
        if match:
            protocol, number, network = match.groups()
            found.setdefault(protocol + (network or ""), {})[int(number)] = value
    return {protocol: dict(sorted(values.items())) for protocol, values in sorted(found.items())}


def whole_network_protocols(names: Iterable[str]) -> tuple[str, ...]:
    """Protocols and networks of the metrics ``eval/<protocol>/top1``, without those of single blocks."""
    matches = (_WHOLE.fullmatch(name) for name in names if not _LAYER.fullmatch(name))
    return tuple(dict.fromkeys(match.group(1) for match in matches if match))

"""What an experiment asks of a Ray cluster, beside what its nodes have: what can never run. Pure.

Ray takes any job, and lets a trial wait for ever for what no node has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.backends.base import JobShape
from orchestrator.backends.ray.manifest import bundle_of
from orchestrator.experiment.schema import Ray


@dataclass(frozen=True)
class Node:
    """A node that is alive, and all that it has, whether or not it is free.

    Attributes:
        resources: Ray's name -> amount; ``memory`` in bytes.
    """

    resources: Mapping[str, float]

    def times(self, bundle: Mapping[str, float]) -> int:
        """How many such bundles the node can hold at a time."""
        shares = [self.resources.get(name, 0.0) / amount for name, amount in bundle.items() if amount > 0]
        return math.floor(min(shares, default=0.0) + 1e-9)


def problems(nodes: Sequence[Node], shape: JobShape, options: Ray) -> list[str]:
    """Why runs of this shape can never begin, one sentence each."""
    found = []
    if options.runs_per_gpu > 1 and shape.gpus != 1:
        found.append(
            f"backend.runs_per_gpu={options.runs_per_gpu} and resources.gpus_per_node={shape.gpus}: only a single GPU "
            "can be shared; set resources.gpus_per_node to 1"
        )
    if options.autoscales or found:
        return found
    if not nodes:
        return ["the Ray cluster has no living node; `ray start` one, or set backend.autoscales if nodes come by need"]
    bundle = bundle_of(shape, options.runs_per_gpu, options.bundle)
    found += _too_large(nodes, shape, bundle)
    return found or list(_no_place(nodes, shape, bundle, options))


def _too_large(nodes: Sequence[Node], shape: JobShape, bundle: Mapping[str, float]) -> Iterator[str]:
    for name, amount in bundle.items():
        most = max(node.resources.get(name, 0.0) for node in nodes)
        if amount <= most:
            continue
        match name:
            case "CPU":
                yield (
                    f"resources.cpus_per_node={shape.cpus}, and no node of the Ray cluster has more than {most:g} CPUs"
                    f"; use {most:g} or fewer{_ADD}"
                )
            case "GPU" if most == 0:
                yield (
                    f"resources.gpus_per_node={shape.gpus}, and no node of the Ray cluster has a GPU; set it to 0{_ADD}"
                )
            case "GPU":
                yield (
                    f"resources.gpus_per_node={shape.gpus}, and no node of the Ray cluster has more than {most:g} GPUs"
                    f"; use {most:g} or fewer{_ADD}"
                )
            case "memory":
                yield (
                    f"resources.memory is {shape.memory_mb} MiB, and no node of the Ray cluster gives more than "
                    f"{most // 2**20:.0f} MiB to its jobs; ask for less{_ADD}"
                )
            case _:
                known = sorted({other for node in nodes for other in node.resources if _is_custom(other)})
                yield (
                    f"backend.bundle.{name}={amount:g}, and no node of the Ray cluster has more than {most:g} of it; "
                    f"its further resources are: {', '.join(known) or 'none'}"
                )


#: For clusters that grow: what is missing now may come.
_ADD = ", or set backend.autoscales if the cluster starts such nodes by need"


def _is_custom(name: str) -> bool:
    return name not in ("CPU", "GPU", "memory", "object_store_memory") and not name.startswith("node:")


def _no_place(nodes: Sequence[Node], shape: JobShape, bundle: Mapping[str, float], options: Ray) -> Iterator[str]:
    each = f"{_amounts(bundle)} each" if shape.nodes > 1 else _amounts(bundle)
    fitting = [node.times(bundle) for node in nodes]
    if not any(fitting):
        yield (
            f"no node of the Ray cluster has {_amounts(bundle)} together (resources, backend.bundle); ask for less"
            f"{_ADD}"
        )
    elif options.strategy == "STRICT_SPREAD" and sum(times > 0 for times in fitting) < shape.nodes:
        yield (
            f"a run needs {shape.nodes} nodes with {each} (resources), and the Ray cluster has "
            f"{sum(times > 0 for times in fitting)} of them; ask for fewer, or set backend.strategy to PACK to put "
            f"several on one{_ADD}"
        )
    elif options.strategy == "STRICT_PACK" and max(fitting) < shape.nodes:
        yield (
            f"a run needs one node with {shape.nodes} times {_amounts(bundle)} (backend.strategy=STRICT_PACK), and "
            f"none of the Ray cluster has room for more than {max(fitting)}; use PACK{_ADD}"
        )
    elif sum(fitting) < shape.nodes:
        yield (
            f"a run needs {shape.nodes} nodes with {each} (resources), and the whole Ray cluster has room for "
            f"{sum(fitting)}; ask for less{_ADD}"
        )


def _amounts(bundle: Mapping[str, float]) -> str:
    words = [
        f"{amount / 2**20:.0f} MiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in bundle.items()
    ]
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]

"""What runs have to keep, so that the checkpoints that ``tracking.checkpoints`` names can be collected."""

from __future__ import annotations

from collections.abc import Mapping

from trainers.config import Inconsistent, RunConfig, Runtime, inconsistencies


def keeping(policy: str) -> Mapping[str, object] | None:
    """Options of ``runtime`` that a policy needs; None if it takes what there is.

    Args:
        policy: as :class:`orchestrator.experiment.schema.Tracking` has it.
    """
    kind, _, what = policy.partition(":")
    match kind:
        case "best":
            return {"keep_best": what}
        case "every":
            return {"keep_every_epochs": int(what)}
    return None


def with_runtime(config: RunConfig, keep: Mapping[str, object]) -> RunConfig:
    """The configuration, keeping that too. The identity of the run, and its numbers, stay as they are.

    Raises:
        Inconsistent: it cannot be kept: the metric is not measured, or the file asks for something else.
    """
    asked = config.runtime.model_dump()
    for name, value in keep.items():
        if asked[name] is not None and asked[name] != value and not _includes(asked[name], value):
            raise Inconsistent(f"runtime.{name}", f"{name}={asked[name]} keeps others; remove it from runtime")
    wanted = {name: value for name, value in keep.items() if asked[name] is None}
    try:
        runtime = Runtime.model_validate({**asked, **wanted})
    except ValueError as error:
        raise Inconsistent(
            "tracking.checkpoints", "the best is chosen by a k-NN accuracy, such as best:eval/knn/top1"
        ) from error
    changed = config.model_copy(update={"runtime": runtime})
    for problem in inconsistencies(changed):
        raise problem
    return changed


def _includes(kept: object, wanted: object) -> bool:
    """Whether every epoch that is wanted is kept anyway."""
    return isinstance(kept, int) and isinstance(wanted, int) and wanted % kept == 0

"""What an evaluation leaves beside its numbers, to be looked at: confusion matrices, and test images in the plane."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from trainers.assessment import Assessment
from trainers.config import Embedding
from trainers.evaluate import embed
from trainers.rng import derive
from trainers.rundir import RunDir, atomic


def write_evidence(
    run_dir: RunDir,
    assessment: Assessment,
    embedding: Embedding | None,
    *,
    class_names: tuple[str, ...],
    split_seed: int,
) -> None:
    """Write what :attr:`RunDir.evaluation_dir` holds. Equal evaluations give equal bytes; rank 0 alone calls it.

    Args:
        embedding: how the sample of the assessment, if it has one, comes into the plane. Takes seconds.
        class_names: of the run's own data set.

    Raises:
        OSError: the run directory cannot be written.
    """
    for protocol, matrix in assessment.confusions.items():
        # Of another data set, the classes are its own.
        names = np.array(list(assessment.per_class[protocol]), dtype=np.str_)
        _write(run_dir.confusion_path(protocol), matrix=matrix.numpy().astype(np.int64), classes=names)
    shown = assessment.sample
    if shown is not None and embedding is not None:
        _write(
            run_dir.embedding_path,
            points=embed(shown, embedding, derive(split_seed, "embedding", "places")),
            labels=shown.labels.astype(np.int64),
            classes=np.array(class_names, dtype=np.str_),
            method=np.array(embedding.method, dtype=np.str_),
        )


def _write(path: Path, **arrays: Any) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    path.parent.mkdir(exist_ok=True)
    atomic.write_bytes(path, packed.getvalue())

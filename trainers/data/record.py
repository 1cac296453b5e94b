"""What ``dataset.json`` says about the images that a run trains on and is evaluated on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainers.config import Data
from trainers.data.images import ImageData, Ints
from trainers.data.problem import DataProblem
from trainers.data.subset import Subset, numbers_digest
from trainers.rundir import RunDir, atomic

#: Longer texts of index lists go into a file of their own, so that ``dataset.json`` stays quick to read.
_LONGEST_IN_RECORD = 100_000


def dataset_record(data: Data, images: ImageData, subset: Subset) -> dict[str, Any]:
    """Everything that is needed to tell whether two runs saw the same images, and to select them again.

    ``digest`` (32 hex digits) covers the images and the selection; the index list, the histogram and what is held out
    have digests of their own. ``indices`` and ``held_out`` are ascending lists of numbers in the whole data
    set's training images, as ranges such as ``"0-4,7"``.
    """
    class_counts = dict(zip(subset.class_names, subset.class_counts, strict=True))
    return {
        "name": data.name,
        "label": data.label,
        "digest": selection_digest(images, subset),
        "images_digest": images.digest,
        "profile": data.profile.model_dump(mode="json"),
        "class_order": data.class_order,
        "split_seed": data.split_seed,
        "num_train": len(subset),
        "num_test": len(images.test),
        "class_counts": class_counts,
        "class_counts_digest": _sha256(json.dumps(class_counts)),
        "groups": dict(zip(subset.class_names, subset.groups, strict=True)),
        "indices_digest": subset.digest,
        "indices": _ranges(images.original_numbers(subset.indices)),
        "held_out": _ranges(images.held_out),
        "held_out_digest": numbers_digest(images.held_out),
    }


def selection_digest(images: ImageData, subset: Subset) -> str:
    """Of the images and of what is selected from them, 32 hex digits: equal ones mean the same training images."""
    return _sha256(f"{images.digest} {subset.digest}")


def write_dataset_record(run_dir: RunDir, record: Mapping[str, Any]) -> None:
    """Write ``dataset.json``, and beside it the index list if that is long."""
    written = dict(record)
    if len(record["indices"]) > _LONGEST_IN_RECORD:
        atomic.write_bytes(run_dir.indices_path, f"{record['indices']}\n".encode())
        written |= {"indices": None, "indices_file": run_dir.indices_path.name}
    atomic.write_json(run_dir.dataset_path, written)


def check_same_data(run_dir: RunDir, record: Mapping[str, Any]) -> None:
    """Refuse to go on with other images than the run has begun with. How they are grouped may differ.

    Raises:
        DataProblem: ``dataset.json`` has another digest, or is damaged.
    """
    try:
        earlier = atomic.read_json(run_dir.dataset_path)
    except ValueError as error:
        raise DataProblem(str(error)) from error
    if earlier is None or earlier["digest"] == record["digest"]:
        return
    same_images = earlier["images_digest"] == record["images_digest"]
    what = "another selection of training images" if same_images else "other images"
    raise DataProblem(
        f"{run_dir.dataset_path}: the run began with {what} (digest {earlier['digest']}, "
        f"{earlier['num_train']} images; now {record['digest']}, {record['num_train']}); bring the former data back, "
        "or remove the run's folder to begin again"
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _ranges(numbers: Ints) -> str:
    """An ascending list without repetitions as text: ``[0, 1, 2, 3, 4, 7]`` is ``"0-4,7"``."""
    if not len(numbers):
        return ""
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
    stops = np.append(starts[1:], len(numbers)) - 1
    pairs = zip(numbers[starts].tolist(), numbers[stops].tolist(), strict=True)
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in pairs)

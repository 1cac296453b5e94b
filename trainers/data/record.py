"""What ``dataset.json`` says about the images that a run trains on and is evaluated on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.config import Data
from trainers.data.images import ImageData
from trainers.data.subset import Subset

#: Longer index lists are represented by their digest alone.
_LONGEST_INDEX_LIST = 200_000


def dataset_record(data: Data, images: ImageData, subset: Subset) -> dict[str, Any]:
    """Everything that is needed to tell whether two runs saw the same images, and to select them again.

    ``digest`` (32 hex digits) covers the images and the selection; ``indices_digest`` the selection alone. ``indices``
    is the ascending list of numbers of the training images as ranges, such as ``"0-4,7"``, or None if it is too long.
    """
    return {
        "name": data.name,
        "label": data.label,
        "digest": hashlib.sha256(f"{images.digest} {subset.digest}".encode()).hexdigest()[:32],
        "images_digest": images.digest,
        "profile": data.profile.model_dump(mode="json"),
        "class_order": data.class_order,
        "split_seed": data.split_seed,
        "num_train": len(subset),
        "num_test": len(images.test),
        "class_counts": dict(zip(subset.class_names, subset.class_counts, strict=True)),
        "groups": dict(zip(subset.class_names, subset.groups, strict=True)),
        "indices_digest": subset.digest,
        "indices": _ranges(subset.indices) if len(subset) <= _LONGEST_INDEX_LIST else None,
    }


def _ranges(indices: npt.NDArray[np.int64]) -> str:
    """An ascending list without repetitions as text: ``[0, 1, 2, 3, 4, 7]`` is ``"0-4,7"``."""
    starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 2) != 1)
    stops = np.append(starts[1:], len(indices)) - 1
    pairs = zip(indices[starts].tolist(), indices[stops].tolist(), strict=True)
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in pairs)

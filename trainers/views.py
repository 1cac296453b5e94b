"""The two views that each paper trains on, as data. What the operations compute is :mod:`trainers.augment`'s.

All views here share one order of operations: crop, colour jitter, grayscale, blur, solarize, flip (methods that skip an
operation give it probability 0). A new paper with another order, such as MoCo v1's grayscale before jitter, needs an
order of its own in :class:`View`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainers.config import ISD, SDSSL, Augment, Method, MoCoV2, RunConfig


@dataclass(frozen=True, kw_only=True)
class View:
    """How one view of an image is drawn.

    Attributes:
        crop_area: smallest and largest share of the image's area that a crop covers.
        crop_ratio: smallest and largest width over height of a crop.
        jitter: largest relative change of brightness, contrast and saturation, and of hue in turns.
        jitter_probability, grayscale_probability, blur_probability, solarize_probability, flip_probability: of each
            operation, for each image.
        blur_sigma: smallest and largest standard deviation of the Gaussian, in pixels of the view.
        solarize_threshold: values from here on are inverted, in [0, 1].
    """

    crop_area: tuple[float, float]
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_probability: float = 0.0
    grayscale_probability: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_probability: float = 0.0
    solarize_threshold: float = 0.5
    flip_probability: float = 0.5


#: Both views of MoCo v2 (arXiv 2003.04297, ``--aug-plus``;
#: https://github.com/facebookresearch/moco/blob/132aea9/main_moco.py).
MOCO_V2 = View(
    crop_area=(0.2, 1.0),
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.8,
    grayscale_probability=0.2,
    blur_probability=0.5,
)

#: ISD's strong view is MoCo v2's (https://github.com/UMBCvision/ISD/blob/4bdd603/train_isd.py).
ISD_STRONG = MOCO_V2

#: ISD's weak view: crop and flip only (https://github.com/UMBCvision/ISD/blob/4bdd603/train_isd_plus.py).
ISD_WEAK = View(crop_area=(0.2, 1.0))

#: First view of MoCo v3 with a vision transformer: always blurred, never solarized (arXiv 2104.02057;
#: https://github.com/facebookresearch/moco-v3/blob/c349e6e/main_moco.py, crop area from its CONFIG.md).
MOCO_V3_FIRST = View(
    crop_area=(0.08, 1.0),
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_probability=0.8,
    grayscale_probability=0.2,
    blur_probability=1.0,
)

#: Second view of MoCo v3: rarely blurred, sometimes solarized.
MOCO_V3_SECOND = replace(MOCO_V3_FIRST, blur_probability=0.1, solarize_probability=0.2)


def method_views(config: RunConfig) -> tuple[View, View]:
    """The two views of a run: those of its method's paper, with the overrides of ``config.augment`` on both.

    For ISD the first view is the student's and the second the teacher's.
    """
    first, second = _paper_views(config.method)
    return _overridden(first, config.augment), _overridden(second, config.augment)


def _paper_views(method: Method) -> tuple[View, View]:
    match method:
        case MoCoV2():
            return MOCO_V2, MOCO_V2
        case ISD():
            named = {"strong": ISD_STRONG, "weak": ISD_WEAK}
            return named[method.student_view], named[method.teacher_view]
        case SDSSL():
            return MOCO_V3_FIRST, MOCO_V3_SECOND


def _overridden(view: View, augment: Augment) -> View:
    changes = {name: value for name in Augment.model_fields if (value := getattr(augment, name)) is not None}
    return replace(view, **changes)

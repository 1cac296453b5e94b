"""The views that each paper trains on, as data. What the operations compute is :mod:`trainers.augment`'s.

All views share one order of operations: crop, colour jitter, grayscale, blur, solarize, flip (methods that skip an
operation give it probability 0); MoCo v1 alone has grayscale before jitter. Where in the order an image is flipped
changes nothing, because every other operation treats left and right alike.

Each operation is torchvision's, also where a paper's own code computes it with TensorFlow or JAX: there crops are
resized without antialiasing, contrast is taken about the mean of each channel, the blur pads with zeros, and in BYOL's
code brightness is added and saturation is that of HSV.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class View:
    """How one view of an image is drawn.

    Attributes:
        squash: side in pixels of the square that images are resized to, whatever their shape, before the crop; None
            crops the image as it is.
        padding: crops are as large as the image and come from the image with a black border of so many pixels, in
            place of crops by area and ratio; None for these.
        crop_area: smallest and largest share of the image's area that a crop covers.
        crop_ratio: smallest and largest width over height of a crop.
        interpolation: of the resized crop; both antialiased. Bicubic values are clipped to [0, 1].
        grayscale_first: grayscale comes before the jitter instead of after it.
        jitter: largest relative change of brightness, contrast and saturation, and of hue in turns.
        jitter_probability, grayscale_probability, blur_probability, solarize_probability, flip_probability: of each
            operation, for each image.
        blur_sigma: smallest and largest standard deviation of the Gaussian, in pixels of the view.
        blur_reach: where the Gaussian is cut off: at three of the largest standard deviations (``sigma``), or at a
            twentieth of the view's side (``tenth``: a kernel of a tenth of it, 23 pixels at 224).
        solarize_threshold: values from here on are inverted, in [0, 1].
        one_draw: one random draw serves the whole global batch instead of each image having its own.
    """

    squash: int | None = None
    padding: int | None = None
    crop_area: tuple[float, float]
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    grayscale_first: bool = False
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_probability: float = 0.0
    grayscale_probability: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_reach: Literal["sigma", "tenth"] = "sigma"
    solarize_probability: float = 0.0
    solarize_threshold: float = 0.5
    flip_probability: float = 0.5
    one_draw: bool = False


#: Both views of MoCo v1 (arXiv 1911.05722, section 3.3;
#: https://github.com/facebookresearch/moco/blob/132aea9/main_moco.py): grayscale first, the jitter always and strong.
MOCO_V1 = View(
    crop_area=(0.2, 1.0),
    grayscale_first=True,
    grayscale_probability=0.2,
    jitter=(0.4, 0.4, 0.4, 0.4),
    jitter_probability=1.0,
)

#: Both views of MoCo v2 (arXiv 2003.04297, ``--aug-plus`` of the same script).
MOCO_V2 = View(
    crop_area=(0.2, 1.0),
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.8,
    grayscale_probability=0.2,
    blur_probability=0.5,
)

#: ISD's strong view is MoCo v2's (https://github.com/UMBCvision/ISD/blob/4bdd603/train_isd.py), its weak one crop and
#: flip only (https://github.com/UMBCvision/ISD/blob/4bdd603/train_isd_plus.py).
ISD_VIEWS = {"strong": MOCO_V2, "weak": View(crop_area=(0.2, 1.0))}

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

#: The views of BYOL are MoCo v3's, with bicubic crops and a kernel of fixed size (arXiv 2006.07733, appendix B;
#: https://github.com/google-deepmind/deepmind-research/blob/4822a455/byol/utils/augmentations.py).
BYOL_FIRST = replace(MOCO_V3_FIRST, interpolation="bicubic", blur_reach="tenth")
BYOL_SECOND = replace(MOCO_V3_SECOND, interpolation="bicubic", blur_reach="tenth")


def simclr_view(strength: float) -> View:
    """Both views of SimCLR (arXiv 2002.05709, appendix A; crops are bicubic in the authors' code).

    https://github.com/google-research/simclr/blob/383d414/tf2/data_util.py

    Args:
        strength: of the colour distortion; 1 on ImageNet, .5 on CIFAR-10.
    """
    return View(
        crop_area=(0.08, 1.0),
        interpolation="bicubic",
        jitter=(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength),
        jitter_probability=0.8,
        grayscale_probability=0.2,
        blur_probability=0.5,
        blur_reach="tenth",
    )


def sdssl_batch_views() -> tuple[View, View]:
    """The views of SDSSL's code before 2022-11-23: MoCo v3's, squashed first, one draw for a whole batch.

    https://github.com/hagiss/SDSSL, revisions before the release (``docs/methods.md``): jitter with probability .3,
    solarize from 130 of 255 on.
    """
    first, second = (
        replace(view, squash=256, jitter_probability=0.3, solarize_threshold=130 / 255, one_draw=True)
        for view in (MOCO_V3_FIRST, MOCO_V3_SECOND)
    )
    return first, second


#: What supervised training and linear probes see while they train: crop and flip (He et al. 2016).
CROP_AND_FLIP = View(crop_area=(0.08, 1.0))

#: The same on images of 32 pixels (He et al. 2016, section 4.2; the probes of SDCLR).
PAD_AND_FLIP = View(padding=4, crop_area=(1.0, 1.0))

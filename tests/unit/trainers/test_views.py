"""Each method gets its paper's views, unless the experiment file says otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trainers.config import RunConfig, method_views, views
from trainers.config.views import View


def run_with(method: dict[str, Any], **sections: Any) -> RunConfig:
    backbone = {"name": "vit_tiny"} if method["name"] == "sdssl" else {"name": "resnet18"}
    data = {"image_size": 32}
    return RunConfig.model_validate({"method": method, "backbone": backbone, "data": data, **sections})


MOCO_V3 = (views.MOCO_V3_FIRST, views.MOCO_V3_SECOND)
VIEWS: dict[str, tuple[dict[str, Any], tuple[View, ...]]] = {
    "moco_v1": ({"name": "moco_v1"}, (views.MOCO_V1, views.MOCO_V1)),
    "moco_v2": ({"name": "moco_v2"}, (views.MOCO_V2, views.MOCO_V2)),
    "moco_v3": ({"name": "moco_v3"}, MOCO_V3),
    "simclr": ({"name": "simclr"}, (views.simclr_view(1.0),) * 2),
    "simclr, half": ({"name": "simclr", "color_strength": 0.5}, (views.simclr_view(0.5),) * 2),
    "byol": ({"name": "byol"}, (views.BYOL_FIRST, views.BYOL_SECOND)),
    "byol_asym": ({"name": "byol_asym"}, (views.ISD_VIEWS["strong"],) * 2),
    "sdssl": ({"name": "sdssl"}, MOCO_V3),
    "sdssl on byol": ({"name": "sdssl", "base": "byol"}, MOCO_V3),
    "sdssl, 2021": ({"name": "sdssl", "augmentation": "per_batch"}, views.sdssl_batch_views()),
    "supervised": ({"name": "supervised"}, (views.CROP_AND_FLIP,)),
    "random": ({"name": "random"}, (views.CROP_AND_FLIP,)),
}


@pytest.mark.parametrize(("method", "expected"), VIEWS.values(), ids=VIEWS)
def test_every_method_has_its_papers_views(method: dict[str, Any], expected: tuple[View, ...]) -> None:
    assert method_views(run_with(method)) == expected


@pytest.mark.parametrize("student", ["strong", "weak"])
@pytest.mark.parametrize("teacher", ["strong", "weak"])
@pytest.mark.parametrize("method", ["isd", "byol_asym"])
def test_the_student_has_the_first_view_and_the_teacher_the_second(method: str, student: str, teacher: str) -> None:
    config = run_with({"name": method, "student_view": student, "teacher_view": teacher})
    assert method_views(config) == (views.ISD_VIEWS[student], views.ISD_VIEWS[teacher])


def test_the_weak_view_crops_and_flips_only() -> None:
    assert views.ISD_VIEWS["weak"] == View(crop_area=(0.2, 1.0), flip_probability=0.5)


def test_overrides_reach_both_views_and_leave_the_rest() -> None:
    config = run_with({"name": "sdssl"}, augment={"blur_probability": 0.0, "crop_area": [0.2, 1.0]})
    first, second = method_views(config)
    assert first.blur_probability == second.blur_probability == 0.0
    assert first.crop_area == second.crop_area == (0.2, 1.0)
    assert second.solarize_probability == 0.2


def test_overrides_of_the_second_view_come_on_top() -> None:
    augment = {"blur_probability": 0.3, "second": {"blur_probability": 0.0, "interpolation": "bicubic"}}
    first, second = method_views(run_with({"name": "moco_v2"}, augment=augment))
    assert (first.blur_probability, second.blur_probability) == (0.3, 0.0)
    assert (first.interpolation, second.interpolation) == ("bilinear", "bicubic")


def test_a_method_of_one_view_has_no_second_one() -> None:
    with pytest.raises(ValidationError, match="method supervised trains on one view and has no second one"):
        run_with({"name": "supervised"}, augment={"second": {"blur_probability": 0.5}})


def test_an_override_of_zero_is_an_override() -> None:
    config = run_with({"name": "moco_v2"}, augment={"flip_probability": 0.0, "jitter": [0, 0, 0, 0]})
    first, _ = method_views(config)
    assert first.flip_probability == 0.0 and first.jitter == (0.0, 0.0, 0.0, 0.0)


def test_only_simclr_leaves_images_as_they_are_unless_told_otherwise() -> None:
    assert run_with({"name": "moco_v2"}).normalises_images
    assert not run_with({"name": "simclr"}).normalises_images
    assert not run_with({"name": "moco_v2"}, augment={"normalise": False}).normalises_images
    assert run_with({"name": "simclr"}, augment={"normalise": True}).normalises_images

"""Each method gets its paper's views, unless the experiment file says otherwise."""

import pytest

from trainers import views
from trainers.config import RunConfig


def run_with(method: dict[str, object], **sections: object) -> RunConfig:
    backbone = {"name": "vit_tiny"} if method["name"] == "sdssl" else {"name": "resnet18"}
    data = {"image_size": 32}
    return RunConfig.model_validate({"method": method, "backbone": backbone, "data": data, **sections})


def test_moco_draws_both_views_alike() -> None:
    assert views.method_views(run_with({"name": "moco_v2"})) == (views.MOCO_V2, views.MOCO_V2)


@pytest.mark.parametrize("student", ["strong", "weak"])
@pytest.mark.parametrize("teacher", ["strong", "weak"])
def test_isd_gives_the_student_the_first_view_and_the_teacher_the_second(student: str, teacher: str) -> None:
    named = {"strong": views.ISD_STRONG, "weak": views.ISD_WEAK}
    config = run_with({"name": "isd", "queue_size": 512, "student_view": student, "teacher_view": teacher})
    assert views.method_views(config) == (named[student], named[teacher])


def test_sdssl_has_moco_v3s_draw_views() -> None:
    first, second = views.method_views(run_with({"name": "sdssl"}))
    assert (first.blur_probability, first.solarize_probability) == (1.0, 0.0)
    assert (second.blur_probability, second.solarize_probability) == (0.1, 0.2)
    assert first.jitter == second.jitter == (0.4, 0.4, 0.2, 0.1)
    assert first.crop_area == second.crop_area == (0.08, 1.0)


def test_the_weak_view_crops_and_flips_only() -> None:
    weak = views.ISD_WEAK
    assert weak.crop_area == (0.2, 1.0) and weak.flip_probability == 0.5
    assert weak.jitter_probability == weak.grayscale_probability == weak.blur_probability == 0
    assert weak.solarize_probability == 0


def test_overrides_reach_both_views_and_leave_the_rest() -> None:
    config = run_with({"name": "sdssl"}, augment={"blur_probability": 0.0, "crop_area": [0.2, 1.0]})
    first, second = views.method_views(config)
    assert first.blur_probability == second.blur_probability == 0.0
    assert first.crop_area == second.crop_area == (0.2, 1.0)
    assert second.solarize_probability == 0.2


def test_an_override_of_zero_is_an_override() -> None:
    config = run_with({"name": "moco_v2"}, augment={"flip_probability": 0.0, "jitter": [0, 0, 0, 0]})
    first, _ = views.method_views(config)
    assert first.flip_probability == 0.0 and first.jitter == (0.0, 0.0, 0.0, 0.0)

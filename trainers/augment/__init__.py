"""Random views of a batch of images, on whatever device the images are on.

One description (:class:`trainers.config.views.View`) serves CPU and GPU, arrays and files. The parameters of every
image are drawn on the host, all images at once, from :class:`trainers.rng.Stream` (``draws``); the pixels are then
computed in batches by a few dense operations (``geometry``, ``colour``). Each operation computes what torchvision
computes on float tensors (tests compare them), one image at a time there.

Inside this package pixels are laid out as (B, H, 3, W). Resizing and blurring are products with one matrix per image
from the left (rows) and from the right (columns), and in this layout both are batched matrix products without a copy.
Selections of images are made from host arrays, so that nothing waits for the device.
"""

from trainers.augment.batches import draw_views, draw_views_of_crops, resize_and_normalise
from trainers.augment.draws import view_streams
from trainers.augment.geometry import crop_boxes, flips

__all__ = ["crop_boxes", "draw_views", "draw_views_of_crops", "flips", "resize_and_normalise", "view_streams"]

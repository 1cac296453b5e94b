"""The typed configuration of a run, free of torch: what ``sweep plan`` validates against and what ``spec.json`` holds.

Owns every option of every method, backbone, data set and schedule, its default and its bounds, and the identity of a
run (:func:`identity`). Leaves what the options *do* to the modules that read them.
"""

from trainers.config.backbones import Backbone, ResNet, ResNet18, ResNet50, ViT, ViTBase, ViTSmall, ViTTiny
from trainers.config.data import (
    Augment,
    Balanced,
    Data,
    Full,
    LargeAndRare,
    ListFile,
    LongTailed,
    Pareto,
    Profile,
    StepProfile,
    ViewOverrides,
)
from trainers.config.evaluate import KNN, Evaluate, FewLabels, Geometry, Linear, Transfer
from trainers.config.fields import Inconsistent, NaturalInt, PositiveInt, Section, added_later, outside_identity
from trainers.config.identity import IDENTITY_SECTIONS, canonical_json, identity
from trainers.config.methods import (
    BYOL,
    ISD,
    SDSSL,
    BYOLAsym,
    Method,
    MoCoV1,
    MoCoV2,
    MoCoV3,
    Random,
    SimCLR,
    Supervised,
)
from trainers.config.run import SCHEMA_VERSION, RunConfig, Runtime, inconsistencies, method_views
from trainers.config.train import LARS, SGD, AdamW, Cosine, Optimizer, Schedule, Step, Train

__all__ = [
    "BYOL",
    "IDENTITY_SECTIONS",
    "ISD",
    "KNN",
    "LARS",
    "SCHEMA_VERSION",
    "SDSSL",
    "SGD",
    "AdamW",
    "Augment",
    "BYOLAsym",
    "Backbone",
    "Balanced",
    "Cosine",
    "Data",
    "Evaluate",
    "FewLabels",
    "Full",
    "Geometry",
    "Inconsistent",
    "LargeAndRare",
    "Linear",
    "ListFile",
    "LongTailed",
    "Method",
    "MoCoV1",
    "MoCoV2",
    "MoCoV3",
    "NaturalInt",
    "Optimizer",
    "Pareto",
    "PositiveInt",
    "Profile",
    "Random",
    "ResNet",
    "ResNet18",
    "ResNet50",
    "RunConfig",
    "Runtime",
    "Schedule",
    "Section",
    "SimCLR",
    "Step",
    "StepProfile",
    "Supervised",
    "Train",
    "Transfer",
    "ViT",
    "ViTBase",
    "ViTSmall",
    "ViTTiny",
    "ViewOverrides",
    "added_later",
    "canonical_json",
    "identity",
    "inconsistencies",
    "method_views",
    "outside_identity",
]

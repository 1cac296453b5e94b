"""What a trained encoder is worth: protocols that use labels, on the balanced test set, and what needs none."""

from trainers.evaluate.accuracy import Accuracy, class_mean, class_std, measure_accuracy
from trainers.evaluate.embedding import Sample, embed, missing_package, sample
from trainers.evaluate.features import FrozenNetwork, Reading, labelled
from trainers.evaluate.few_labels import few_labels
from trainers.evaluate.geometry import evaluate_geometry
from trainers.evaluate.knn import evaluate_knn, evaluate_knn_by_block, knn_predict
from trainers.evaluate.linear import evaluate_linear, evaluate_linear_by_block

__all__ = [
    "Accuracy",
    "FrozenNetwork",
    "Reading",
    "Sample",
    "class_mean",
    "class_std",
    "embed",
    "evaluate_geometry",
    "evaluate_knn",
    "evaluate_knn_by_block",
    "evaluate_linear",
    "evaluate_linear_by_block",
    "few_labels",
    "knn_predict",
    "labelled",
    "measure_accuracy",
    "missing_package",
    "sample",
]

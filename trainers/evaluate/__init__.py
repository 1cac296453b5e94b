"""What a trained encoder is worth: protocols that use labels, on the balanced test set, and what needs none."""

from trainers.evaluate.accuracy import Accuracy, measure_accuracy
from trainers.evaluate.features import FrozenNetwork, Reading
from trainers.evaluate.knn import evaluate_knn, evaluate_knn_by_block, knn_predict

__all__ = [
    "Accuracy",
    "FrozenNetwork",
    "Reading",
    "evaluate_knn",
    "evaluate_knn_by_block",
    "knn_predict",
    "measure_accuracy",
]

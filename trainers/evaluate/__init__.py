"""What a trained encoder is worth: protocols that use labels, on the balanced test set."""

from trainers.evaluate.knn import KnnResult, evaluate_knn, knn_predict

__all__ = ["KnnResult", "evaluate_knn", "knn_predict"]

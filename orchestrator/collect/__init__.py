"""Collection into MLflow: run directories -> tracking store, safe to repeat. MLflow is imported on first use."""

from orchestrator.collect.collector import CollectProgress, CollectSummary, collect, log_report
from orchestrator.collect.cursor import Cursor, CursorStore
from orchestrator.collect.store import check_store, store_uri

__all__ = [
    "CollectProgress",
    "CollectSummary",
    "Cursor",
    "CursorStore",
    "check_store",
    "collect",
    "log_report",
    "store_uri",
]

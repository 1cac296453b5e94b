"""Self-supervised trainers, started by torchrun with a run directory.

This package knows of no scheduler and no tracking server, and imports nothing of ``orchestrator``. The
controller may import :mod:`trainers.config` and :mod:`trainers.rundir`, which are free of torch.
"""

"""The launcher: what stands between a backend and torchrun, one process per node of a job."""

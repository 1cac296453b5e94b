"""A private SLURM of several nodes on one machine. Standard library only; imports nothing of the project."""

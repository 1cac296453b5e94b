"""The ``slurm`` backend: runs are elements of job arrays, and their jobs ask SLURM themselves to be started again.

On the login node: ``commands`` runs SLURM's programs; ``facts`` asks the cluster for its limits, and ``demands`` holds
an experiment against them; ``queue`` asks for jobs and reads the answers, in the words of ``states``; ``arrays``
divides runs into arrays and slots, and ``throttles`` keeps the slots of those that live; ``script`` writes the batch
script and sends it, by submitit's executor; ``backend`` puts them together. ``checks`` and ``probe`` are what `sweep
doctor` looks at.

``manifest`` is the file by which a job knows its runs. On its first node: ``job`` starts the launchers by ``srun`` and
asks for the requeue, ``verdict`` decides what becomes of each run, and ``own_job`` asks SLURM about the job itself.
"""

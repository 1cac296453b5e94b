"""The ``slurm`` backend: runs are elements of job arrays, and their jobs ask SLURM themselves to be started again.

``facts`` asks the cluster for its limits; ``queue`` asks for jobs and reads the answers; ``arrays`` divides runs into
arrays and slots, and ``throttles`` keeps the slots of those that live; ``manifest`` is the file by which a job knows
its runs; ``script`` writes the batch script and sends it, by submitit's executor; ``backend`` puts them together.
``job`` is what runs on the first node of each job: it starts the launchers and asks for the requeue.
"""

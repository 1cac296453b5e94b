"""The ``ray`` backend: runs are trials of Ray Tune, under one detached driver for each submission.

Where the user is: ``clusters`` finds the cluster, or starts one on this machine (``own_cluster``); ``jobs`` asks Ray's
Jobs API, in the words of ``states``; ``demands`` holds an experiment against the cluster's nodes; ``environment`` is
what its jobs run in; ``backend`` puts them together. ``checks`` and ``probe`` are what `sweep doctor` looks at.

``manifest`` is the file by which a driver knows its runs, and ``board`` the one by which it tells what its trials do;
both lie in the workspace. On the cluster: ``driver`` is the entrypoint of the Ray job and keeps ``tuning`` alive, which
runs Tune; ``queue`` hands it one run after the other, or ``searching`` new ones, and ``watch`` keeps the board.
``trial`` carries out one run: it starts ``launchers``, one in each bundle of its placement group, by a ``follower`` in
those but the first, and starts again what failed while a budget lasts. It learns from ``losses`` what took its last
actor away, and by ``draining`` which nodes are to leave.
"""

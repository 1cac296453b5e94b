"""``python -m trainers.export``: a backbone as a graph that torch loads without this package.

The graph depends on the architecture alone. So it is made once for all runs of one architecture, and whoever has the
weights of a run puts them into a copy of the file: its weights are plain records of bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import TypeAdapter

from trainers.backbones import build_backbone
from trainers.config import Backbone

#: Images of the batch that the graph is traced with. One would be taken for the only possible number.
_TRACED_BATCH = 2


def export_backbone(backbone: Backbone, side: int, path: Path) -> None:
    """Write the graph of a backbone with fresh weights, (B, 3, side, side) -> (B, d) for any B, in evaluation mode.

    Args:
        path: gets the name ``*.pt2``; replaced as a whole.

    Raises:
        Exception: torch cannot export something in it; which type that has depends on what it is.
    """
    network = build_backbone(backbone, side).eval()
    images = torch.zeros(_TRACED_BATCH, 3, side, side)
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.pt2")
    try:
        # MLflow compares it when it loads the file.
        torch.export.save(program, unfinished, extra_files={"torch": json.dumps(torch.__version__)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def main(command_line: Sequence[str] | None = None) -> int:
    """The backbone's options come as JSON on standard input. What goes wrong is the last line of standard error."""
    parser = argparse.ArgumentParser(prog="python -m trainers.export", description=__doc__)
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--side", type=int, required=True, help="side of the images in pixels")
    arguments = parser.parse_args(command_line)
    torch.set_num_threads(1)
    backbone: Backbone = TypeAdapter(Backbone).validate_json(sys.stdin.read())
    export_backbone(backbone, arguments.side, arguments.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

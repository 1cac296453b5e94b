"""What MoCo v2 and ISD share: a student, its momentum teacher, and a queue of the teacher's embeddings."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from trainers import config as options
from trainers.backbones import Backbone, NormFactory, build_backbone
from trainers.batch_norm import GroupBatchNorm, average_running_statistics, num_local_groups
from trainers.distributed import forward_shuffled, key_permutation, local_batch_size, world_size
from trainers.heads import Encoder
from trainers.key_queue import KeyQueue
from trainers.methods.base import Method, Progress
from trainers.momentum import make_teacher, update_teacher
from trainers.similarity import unit_rows


def build_grouped_backbone(config: options.RunConfig, bn_group_size: int) -> tuple[Backbone, NormFactory]:
    """The backbone of a run with batch statistics over groups of the global batch, and the norm for its heads.

    Raises:
        ValueError: batches or groups cannot be divided among the processes.
    """
    num_local_groups(local_batch_size(config.train.batch_size), bn_group_size)
    norm = partial(GroupBatchNorm, group_size=bn_group_size)
    return build_backbone(config.backbone, config.data.side, norm), norm


class MomentumQueueMethod(Method):
    """A method whose student is compared with a queue of earlier embeddings of its teacher.

    In ``forward`` a subclass embeds the queries, then calls :meth:`advance_teacher` and :meth:`embed_keys`, computes
    its loss, and hands the new keys to :meth:`remember`. They enter the queue after the optimizer's step: each loss
    sees a queue without the current batch, and the backward pass needs no copy of the queue.

    Args:
        student: the network that is trained and, averaged over time, embeds the keys.
        queue: as wide as the student's output.
        momentum: share of the teacher's parameters that is kept at each step.
        seed: draws the shuffles.
    """

    def __init__(self, student: Encoder, queue: KeyQueue, *, momentum: float, seed: int) -> None:
        super().__init__()
        self.student = student
        self.teacher = make_teacher(student)
        self.queue = queue
        self.momentum = momentum
        self.seed = seed
        self._new_keys: list[Tensor] = []

    def encoders(self) -> dict[str, nn.Module]:
        """The student's backbone, which the paper evaluates, and the teacher's."""
        return {"student": self.student.backbone, "teacher": self.teacher.backbone}

    def advance_teacher(self) -> None:
        """Move the teacher towards the student as it is now, once per step."""
        update_teacher(self.teacher, self.student, self.momentum)

    def embed_keys(self, images: Tensor, progress: Progress, view: int = 0) -> Tensor:
        """The teacher's embeddings, computed in shuffled batch-norm groups.

        Args:
            images: (B / W, 3, H, W), this rank's share.
            progress: where the training is; draws the shuffle.
            view: distinguishes the shuffles of one step.

        Returns:
            (B, D) of the *global* batch, unit rows in float32, the same on every rank, without gradient.
        """
        order = key_permutation(len(images) * world_size(), self.seed, progress.step, view)
        return forward_shuffled(lambda x: unit_rows(self.teacher(x)), images, order)

    def remember(self, *keys: Tensor) -> None:
        """Have (B, D) keys of the global batch enter the queue after this step, in the order of the arguments."""
        self._new_keys = list(keys)

    def after_step(self, progress: Progress) -> None:  # noqa: ARG002 (nothing here depends on the step)
        """Let the step's keys enter the queue, and make the running statistics the same on every rank."""
        for keys in self._new_keys:
            self.queue.enqueue(keys)
        self._new_keys = []
        average_running_statistics(self)

"""What the methods with a momentum teacher share: when the teacher moves, and how it embeds its view of a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trainers.batch_norm import average_running_statistics
from trainers.distributed import forward_shuffled, gather_interleaved, key_permutation, world_size
from trainers.heads import Encoder
from trainers.methods.base import Method, Progress
from trainers.momentum import make_teacher, update_teacher
from trainers.schedule import cosine_momentum
from trainers.similarity import unit_rows


class StudentTeacher(Method):
    """A method whose student learns from an exponential moving average of itself.

    In ``forward`` a subclass embeds its queries with :attr:`student`, then calls :meth:`before_keys`, then embeds the
    keys with :meth:`embed_keys`.

    Args:
        student: the network that is trained.
        teacher: the average's starting point; None copies the student.
        seed: the run's; draws the shuffles.
        momentum: share of the teacher's parameters that is kept at each step.
        momentum_end: where the momentum ends, along half a cosine over the training; None keeps it constant.
        teacher_update: when the teacher moves in a step: between queries and keys, towards the weights before the
            optimizer's step, or after it.
        shuffle_keys: embed the keys in another order than the queries (:func:`trainers.distributed.forward_shuffled`).
    """

    def __init__(
        self,
        student: Encoder,
        teacher: Encoder | None = None,
        *,
        seed: int,
        momentum: float,
        momentum_end: float | None,
        teacher_update: Literal["before_keys", "after_step"] = "before_keys",
        shuffle_keys: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = make_teacher(student) if teacher is None else teacher.requires_grad_(False)
        self.seed = seed
        self.momentum = momentum
        self.momentum_end = momentum_end
        self.teacher_update = teacher_update
        self.shuffle_keys = shuffle_keys

    def encoders(self) -> dict[str, nn.Module]:
        """The student's backbone, which the papers evaluate, and the teacher's."""
        return {"student": self.student.backbone, "teacher": self.teacher.backbone}

    def embedders(self) -> dict[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher}

    def before_keys(self, progress: Progress) -> None:
        """Move the teacher, if it moves before the keys; in the first part of a step only."""
        if self.teacher_update == "before_keys" and progress.part == 0:
            self._move_teacher(progress)

    @torch.no_grad()
    def embed_keys(self, images: Tensor, progress: Progress, view: int = 0) -> Tensor:
        """The teacher's embeddings of this rank's images, and of all others.

        Args:
            images: (B / W, 3, H, W), this rank's share.
            progress: where the training is; draws the shuffle.
            view: distinguishes the shuffles of one step.

        Returns:
            (B, D) of the *global* batch in its own order, unit rows in float32, the same on every rank, without
            gradient.
        """
        if not self.shuffle_keys:
            return gather_interleaved(unit_rows(self.teacher(images)))
        order = key_permutation(len(images) * world_size(), self.seed, progress.step, view, progress.part)
        return forward_shuffled(lambda x: unit_rows(self.teacher(x)), images, order)

    def after_step(self, progress: Progress) -> None:
        """Move the teacher, if it moves now, and make the running statistics the same on every rank."""
        if self.teacher_update == "after_step":
            self._move_teacher(progress)
        average_running_statistics(self)

    def _move_teacher(self, progress: Progress) -> None:
        momentum = cosine_momentum(self.momentum, progress.fraction, self.momentum_end)
        update_teacher(self.teacher, self.student, momentum)

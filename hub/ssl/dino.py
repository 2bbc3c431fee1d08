"""Self-distillation between crops with a centred, sharpened teacher: DINO and iBOT."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_fraction, check_positive
from hub.ssl.distributed import all_reduce_sum, mean_share
from hub.ssl.precision import in_full_precision


class Centre(nn.Module):
    """Moving mean of the teacher's logits, taken off them so that no output dominates.

    Caron et al. 2021 (DINO), Eq. 4. Update it *after* the loss of the step.

    Attributes:
        value: `(outputs,)`, zero at first.
    """

    value: Tensor

    def __init__(self, outputs: int, *, momentum: float = 0.9) -> None:
        """Start at zero.

        Args:
            outputs: number of outputs of the head.
            momentum: share of the old centre kept at each update.

        Raises:
            ValueError: if a number is out of its range.
        """
        super().__init__()
        check_positive(outputs=outputs)
        check_fraction(momentum=momentum)
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(outputs))

    @torch.no_grad()
    @in_full_precision
    def update(self, logits: Tensor) -> None:
        """Follow the mean of the teacher's logits over everything but the last axis.

        Args:
            logits: `(..., outputs)`; nothing happens if all processes pass no row.
        """
        rows = logits.flatten(end_dim=-2)
        count = all_reduce_sum(torch.tensor(float(len(rows)), device=rows.device))
        total = all_reduce_sum(rows.sum(dim=0))
        if count > 0:
            self.value.lerp_((total / count).to(self.value.dtype), 1 - self.momentum)


@in_full_precision
def dino(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Cross-entropy of every student view to every other teacher view.

    Caron et al. 2021 (DINO), Eq. 3 and Algorithm 1. The teacher sees the global crops, which are
    the student's first views: teacher view i and student view i are the same crop and no pair.

    Args:
        student: `(views, batch, outputs)` logits, global crops first.
        teacher: `(global_views, batch, outputs)` logits; no gradient reaches them.
        centre: `(outputs,)`, see `Centre`.
        student_temperature: sharpening of the student.
        teacher_temperature: sharpening of the teacher, lower than the student's.

    Returns:
        Scalar, mean over pairs and batch. With uniform outputs it is `log(outputs)`.

    Raises:
        ValueError: if the shapes do not fit or there is no pair of different views.
    """
    if student.dim() != 3 or teacher.dim() != 3 or student.shape[1:] != teacher.shape[1:]:
        raise ValueError(
            "student and teacher must have shapes (views, batch, outputs) with equal batch and "
            f"outputs, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    pairs = len(teacher) * len(student) - min(len(teacher), len(student))
    if pairs == 0:
        raise ValueError("DINO needs a student view other than the teacher's: pass at least 2")
    target = F.softmax((teacher.detach() - centre) / teacher_temperature, dim=-1)
    log_student = F.log_softmax(student / student_temperature, dim=-1)
    cross_entropy = -torch.einsum("tbo,sbo->bts", target, log_student)
    same_view = torch.eye(len(teacher), len(student), dtype=torch.bool, device=student.device)
    return mean_share(cross_entropy.masked_fill(same_view, 0.0).sum(dim=(1, 2)) / pairs)


@in_full_precision
def masked_patch_distillation(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Cross-entropy on masked patch tokens, every image with the same weight.

    Zhou et al. 2022 (iBOT), Eq. 2. Images without a masked patch contribute 0 but count.

    Args:
        student: `(masked, outputs)` logits of the masked tokens, row by row of `mask`.
        teacher: `(masked, outputs)` logits of the same tokens, unmasked input; no gradient.
        mask: `(batch, ...)` bool, true where a patch is masked.
        centre: `(outputs,)`, its own, not that of the class token.
        student_temperature: sharpening of the student.
        teacher_temperature: sharpening of the teacher.

    Returns:
        Scalar, mean over the images.

    Raises:
        ValueError: if the numbers of rows and of masked patches differ.
    """
    flat = mask.flatten(start_dim=1)
    masked = int(flat.sum())
    if student.shape != teacher.shape or len(student) != masked:
        raise ValueError(
            f"student and teacher must both hold the {masked} masked tokens, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    target = F.softmax((teacher.detach() - centre) / teacher_temperature, dim=-1)
    log_student = F.log_softmax(student / student_temperature, dim=-1)
    cross_entropy = -(target * log_student).sum(dim=-1)
    image = flat.nonzero()[:, 0]
    per_image = cross_entropy.new_zeros(len(flat)).index_add(0, image, cross_entropy)
    return mean_share(per_image / flat.sum(dim=1).clamp(min=1))

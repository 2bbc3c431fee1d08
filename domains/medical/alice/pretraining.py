"""Alice's pretext task (Jiang et al., ICCV 2023): two crops of one anatomy, masked for the student alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.medical.alice.configuration import AliceConfig
from domains.medical.alice.heads import Casa, Head
from domains.medical.alice.heads import initialise as initialise_heads
from domains.medical.alice.initialisation import initialise
from domains.medical.alice.modeling import AliceModel
from domains.medical.alice.nnformer import Decoder
from domains.medical.alice.swin import SwinDecoder
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.dino import Centre, dino
from hub.ssl.distributed import mean_share
from hub.ssl.teacher import EMATeacher
from hub.training.dino import half_cosine, warmed_up


class Network(nn.Module):
    """Encoder, decoder and head: what the teacher is a moving average of."""

    def __init__(self, encoder: AliceModel, decoder: Decoder | SwinDecoder, head: Head) -> None:
        """Join the three."""
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def forward(self, crops: Tensor, shared: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Score ``(batch, 1, x, y, z)`` crops; see `Head.forward`. Nothing finer is decoded than that needs."""
        maps = self.encoder.pyramid(crops)
        return self.head(maps[-1], self.decoder.deepest(maps), shared=shared)


class AliceForPreTraining(PretextModel):
    """Student, teacher, CASA and centres with Alice's three losses, each a mean over the pairs of a batch."""

    config: AliceConfig
    config_class = AliceConfig
    base_model_prefix = "alice"
    main_input_name = "crops"
    input_modalities = "image"
    # An encoder's checkpoint has none of these; they start fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [
        r"^(decoder|head|casa|teacher|centre|token_centre)\.",
        r"^progress$",
    ]

    progress: Tensor

    def __init__(self, config: AliceConfig) -> None:
        """Create the student with fresh weights, and the teacher as its copy."""
        super().__init__(config)
        self.alice = AliceModel(config)
        self.decoder = Decoder(config) if config.backbone == "nnformer" else SwinDecoder(config)
        self.head = Head(config, self.decoder.token_width)
        self.casa = Casa(config)
        self.centre = Centre(config.head_outputs, momentum=config.centre_momentum)
        self.token_centre = Centre(config.head_outputs, momentum=config.centre_momentum)
        # How much of the run is done: schedules read it, and a resumed run must find it where it was.
        self.register_buffer("progress", torch.zeros(()))
        self.post_init()
        self.teacher = EMATeacher(self._student())

    def _init_weights(self, module: Any) -> None:
        initialise(module)
        initialise_heads(module)

    def _student(self) -> Network:
        return Network(self.alice, self.decoder, self.head)

    def forward(self, crops: Tensor, masks: Tensor) -> PretextOutput:
        """Compare student and teacher on pairs of crops, and rebuild what is hidden.

        Args:
            crops: ``(batch, 2, x, y, z)``: the same anatomy in two volumes, or twice in one.
            masks: ``(batch, 2, x / s, y / s, z / s)`` bool, true where cells of ``s`` voxels are hidden from the
                student.

        Returns:
            The weighted sum of the losses. Metrics: each of them, ``teacher_entropy``, the mean entropy of the
            teacher's class scores, and ``used_entropy``, that of their mean, both in nats; where the latter comes near
            0 the run has collapsed.
        """
        config, progress = self.config, float(self.progress)
        learn = not self.training or progress >= config.frozen_prototypes
        # View by view, so that a view of all pairs lies together.
        whole = crops.transpose(0, 1).flatten(0, 1).unsqueeze(1)
        hidden = hide(whole, masks.transpose(0, 1).flatten(0, 1))
        maps = self.alice.pyramid(hidden)
        decoded, voxels = self.decoder(hidden, maps)
        classes, tokens, fine = self.head(maps[-1], decoded[0], learn)
        teacher_classes, _, teacher_fine = self.teacher(whole, config.teacher_shared_head)
        temperature = warmed_up(
            progress, config.teacher_temperature_start, config.teacher_temperature, config.teacher_temperature_warmup
        )
        gathered = self.casa(tokens, fine)
        with torch.no_grad():
            target = self.casa(tokens, teacher_fine)
        pairs = len(crops)
        class_loss = dino(
            classes.unflatten(0, (2, pairs)),
            teacher_classes.unflatten(0, (2, pairs)),
            self.centre.value,
            student_temperature=config.student_temperature,
            teacher_temperature=temperature,
        )
        patch_loss = patch_contrast(
            gathered, target, self.token_centre.value, float(config.student_temperature), temperature
        )
        reconstruction = mean_share((voxels - whole).square().mean(dim=(1, 2, 3, 4))) / 2
        loss = (
            config.class_weight * class_loss
            + config.patch_weight * patch_loss
            + config.reconstruction_weight * reconstruction
        )
        answers = F.softmax((teacher_classes.float() - self.centre.value) / temperature, dim=-1)
        if self.training:
            self.centre.update(teacher_classes)
            self.token_centre.update(target)
        metrics = {
            "class_loss": class_loss,
            "patch_loss": patch_loss,
            "reconstruction": reconstruction,
            "teacher_entropy": torch.special.entr(answers).sum(-1).mean(),
            "used_entropy": torch.special.entr(answers.mean(0)).sum(-1),
        }
        states = self.alice.tokens(maps).flatten(2).transpose(1, 2)
        return PretextOutput(loss=loss, metrics=metrics, predictions=voxels, states=states)

    def start_teacher(self) -> None:
        """Make the teacher equal to the student."""
        self.teacher.model.load_state_dict(self._student().state_dict())

    def update_teacher(self, progress: float) -> None:
        """Move the teacher; its momentum rises to 1 by a half cosine over the run."""
        self.teacher.update(self._student(), half_cosine(float(self.progress), self.config.teacher_momentum, 1.0))
        # A run that goes on from a finished one starts its own schedules.
        self.progress.fill_(progress if progress < 1 else 0.0)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return two groups: matrices and kernels, whose decay rises over the run, and vectors, which have none."""
        learnt = [p for p in self.parameters() if p.requires_grad]
        ends = {"weight_decay_start": weight_decay, "weight_decay_end": float(self.config.weight_decay_end)}
        return [
            # The optimiser follows the run by looking at the buffer.
            {"params": [p for p in learnt if p.ndim > 1], "weight_decay": weight_decay, **ends}
            | {"progress": self.progress},
            {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
        ]


def hide(crops: Tensor, masks: Tensor) -> Tensor:
    """Set hidden voxels to 0, as published: no mask token reaches the network.

    Args:
        crops: ``(batch, 1, x, y, z)``.
        masks: ``(batch, x / s, y / s, z / s)`` bool.
    """
    shown = F.interpolate((~masks).unsqueeze(1).to(crops.dtype), size=crops.shape[2:], mode="nearest")
    return crops * shown


def patch_contrast(
    student: Tensor, teacher: Tensor, centre: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Return the cross-entropy of aligned patch tokens of the same view.

    Args:
        student: ``(rows, tokens, outputs)`` scores.
        teacher: The same shape; no gradient.
        centre: ``(outputs,)``.
        student_temperature: Sharpening of the student.
        teacher_temperature: Sharpening of the teacher.
    """
    target = F.softmax((teacher.detach().float() - centre) / teacher_temperature, dim=-1)
    log_student = F.log_softmax(student.float() / student_temperature, dim=-1)
    return mean_share(-(target * log_student).sum(-1).mean(-1))

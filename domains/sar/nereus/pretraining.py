"""Nereus's pretext task: DINO self-distillation between crops (Caron et al. 2021, section 3.1)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.head import DinoHead
from domains.sar.nereus.modeling import NereusModel
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.dino import Centre, dino
from hub.ssl.teacher import EMATeacher
from hub.training.dino import half_cosine, warmed_up


class Network(nn.Module):
    """Encoder and head: what the teacher is a moving average of."""

    def __init__(self, encoder: NereusModel, head: DinoHead) -> None:
        """Join the two."""
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, crops: Tensor, learn_prototypes: bool = True) -> tuple[Tensor, Tensor]:
        """Encode crops of one size.

        Args:
            crops: ``(batch, views, channels, rows, columns)``.
            learn_prototypes: Whether gradients reach the prototypes.

        Returns:
            Logits ``(views, batch, outputs)`` and token states ``(views * batch, tokens, hidden)``, view by view.
        """
        batch, views = crops.shape[:2]
        output = self.encoder(crops.transpose(0, 1).flatten(0, 1))
        logits = self.head(self.encoder.summary(output), learn_prototypes)
        return logits.unflatten(0, (views, batch)), output.last_hidden_state


class NereusForPreTraining(PretextModel):
    """Student, teacher and centre with DINO's loss.

    Student and teacher both run in train mode, so a ResNet's batch normalisation takes the statistics of the crops, the
    global ones and the local ones each by themselves, and the teacher keeps running statistics of its own.
    """

    config: NereusConfig
    config_class = NereusConfig
    base_model_prefix = "nereus"
    main_input_name = "global_crops"
    input_modalities = "image"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["ResNetConvLayer", "ResNetShortCut", "ViTLayer"]
    # An encoder's checkpoint has none of these; they start fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^head\.", r"^teacher\.", r"^centre\.", r"^progress$"]

    progress: Tensor

    def __init__(self, config: NereusConfig) -> None:
        """Create the student with fresh weights, and the teacher as its copy."""
        super().__init__(config)
        self.nereus = NereusModel(config)
        self.head = DinoHead(config)
        self.centre = Centre(config.head_outputs, momentum=config.centre_momentum)
        # How much of the run is done: schedules read it, and a resumed run must find it where it was.
        self.register_buffer("progress", torch.zeros(()))
        self.post_init()
        self.teacher = EMATeacher(self._student())

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, DinoHead):
            init.normal_(module.prototypes)

    def _student(self) -> Network:
        return Network(self.nereus, self.head)

    def forward(self, global_crops: Tensor, local_crops: Tensor | None = None) -> PretextOutput:
        """Score each student view against each other teacher view.

        Args:
            global_crops: ``(batch, 2, 1, rows, columns)``; the teacher sees these.
            local_crops: ``(batch, crops, 1, rows, columns)`` of a smaller size; ``None`` without any.

        Returns:
            DINO's loss. Metrics: ``teacher_entropy``, the mean entropy of the teacher's answers, and ``used_entropy``,
            that of their mean, both in nats and at most ``log(head_outputs)``. Where the first comes near that bound,
            or the second near 0, the run has collapsed.
        """
        config = self.config
        progress = float(self.progress)
        learn = not self.training or progress >= config.frozen_prototypes
        student = self._student()
        logits, states = student(global_crops, learn)
        if local_crops is not None:
            logits = torch.cat([logits, student(local_crops, learn)[0]])
        with torch.no_grad():
            teacher = self.teacher(global_crops)[0]
        temperature = warmed_up(
            progress, config.teacher_temperature_start, config.teacher_temperature, config.teacher_temperature_warmup
        )
        loss = dino(
            logits,
            teacher,
            self.centre.value,
            student_temperature=config.student_temperature,
            teacher_temperature=temperature,
        )
        answers = F.softmax((teacher.float() - self.centre.value) / temperature, dim=-1).flatten(0, 1)
        if self.training:
            self.centre.update(teacher)
        return PretextOutput(
            loss=loss,
            metrics={"teacher_entropy": _entropy(answers).mean(), "used_entropy": _entropy(answers.mean(0))},
            predictions=logits,
            states=states,
        )

    def start_teacher(self) -> None:
        """Make the teacher equal to the student."""
        self.teacher.model.load_state_dict(self._student().state_dict())

    def update_teacher(self, progress: float) -> None:
        """Move the teacher; its momentum rises to 1 by a half cosine over the run."""
        momentum = half_cosine(float(self.progress), self.config.teacher_momentum, 1.0)
        self.teacher.update(self._student(), momentum)
        # A run that goes on from a finished one starts its own schedules.
        self.progress.fill_(progress if progress < 1 else 0.0)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return two groups: matrices and kernels, whose decay rises over the run, and vectors, which have none."""
        learnt = [p for p in self.parameters() if p.requires_grad]
        ends = {"weight_decay_start": weight_decay, "weight_decay_end": self.config.weight_decay_end}
        return [
            # The optimiser follows the run by looking at the buffer.
            {"params": [p for p in learnt if p.ndim > 1], "weight_decay": weight_decay, **ends}
            | {"progress": self.progress},
            {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
        ]


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)

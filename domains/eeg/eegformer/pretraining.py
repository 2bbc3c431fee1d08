"""EEGFormer's pretext task: tell each channel's spectrum by discrete codes (paper, section 2), or another objective."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.modeling import EEGFormerModel
from domains.eeg.eegformer.objectives import Objective, Rows
from domains.eeg.eegformer.objectives.frames import FrameProjections
from domains.eeg.eegformer.objectives.myow import MYOW
from domains.eeg.eegformer.objectives.timedrl import TimeDRL
from hub.modeling import PretextModel, PretextOutput
from hub.ssl.reconstruction import masked_mse
from hub.training.collation import seeded_generator


def _objective(config: EEGFormerConfig, model: EEGFormerModel) -> Objective | None:
    if config.objective == "timedrl":
        return TimeDRL(config)
    if config.objective == "frames":
        return FrameProjections(config)
    return MYOW(config, model) if config.objective == "myow" else None


class EEGFormerForPreTraining(PretextModel):
    """Encoder, codebook, decoder and loss.

    ``reconstruction + codebook + commitment_weight * commitment`` trains everything. Where another objective trains the
    encoder, codebook and decoder learn to read its states all the same, without changing them, so that codes and
    reconstruction errors of every checkpoint mean something.
    """

    config: EEGFormerConfig
    config_class = EEGFormerConfig
    base_model_prefix = "eegformer"
    main_input_name = "input_values"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["EEGFormerLayer"]
    # An encoder's checkpoint has neither; both start afresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^objective\.", r"^steps$"]

    steps: Tensor

    def __init__(self, config: EEGFormerConfig) -> None:
        """Create model and objective with fresh weights."""
        super().__init__(config)
        self.eegformer = EEGFormerModel(config)
        self.objective = _objective(config, self.eegformer)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._seen: Tensor | None = None
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor,
        amplitude: Tensor | None = None,
        regions: Tensor | None = None,
        channels: Tensor | None = None,
        **views: Tensor,
    ) -> PretextOutput:
        """Score one batch.

        Args:
            input_values: ``(batch, rows, tokens, values)``.
            attention_mask: ``(batch, rows, tokens)``, true where a token is real.
            amplitude: Not looked at.
            regions: Not looked at.
            channels: Not looked at.
            views: What the objective needs beside: ``second_values``, ``origin`` and ``draw`` (``myow``), ``fourier``
                and ``scalogram`` (``frames``).

        Returns:
            The loss; metrics ``reconstruction`` (mean squared error of tokens, which have variance 1), ``commitment``,
            ``perplexity`` and ``usage`` of the codes in this batch, and the objective's own.
        """
        mask = attention_mask.bool()
        real = mask.any(-1)
        values, mask = input_values[real].to(self.dtype), mask[real]
        model = self.eegformer
        *_, states = model.encode(values, mask)
        tokens = model.tokens_of(states)
        alone = self.objective is None
        quantised = model.quantise(tokens if alone else tokens.detach(), mask)
        self._seen = tokens.detach()[mask] if self.training else None
        rebuilt = model.decode(quantised.values, mask)
        reconstruction = masked_mse(rebuilt, values, mask)
        loss = reconstruction + quantised.codebook_loss
        metrics = {
            "reconstruction": reconstruction,
            "commitment": quantised.commitment_loss,
            "perplexity": quantised.perplexity,
            "usage": quantised.usage,
        }
        if self.objective is None:
            loss = loss + self.config.commitment_weight * quantised.commitment_loss
        else:
            own, terms = self.objective(model, Rows(values, mask, states, real, views))
            loss = loss + own
            metrics |= terms
        return PretextOutput(loss=loss, metrics=metrics, predictions=rebuilt, states=tokens, states_mask=mask)

    def update_teacher(self, progress: float) -> None:
        """After an optimiser step: start the codebook from data, revive dead codes, move the objective's teacher."""
        self.steps += 1
        step, book, every = int(self.steps), self.eegformer.codebook, self.config.revive_every
        if self._seen is not None and (step == 1 or (every and step % every == 0)):
            threshold = float("inf") if step == 1 else self.config.revive_below * float(book.cluster_size.mean())
            generator = torch.Generator(self._seen.device).manual_seed(seeded_generator(step).initial_seed())
            book.revive_dead_codes(self._seen, threshold=threshold, generator=generator)
        if self.objective is not None:
            self.objective.update_teacher(self.eegformer, progress)

    def start_teacher(self) -> None:
        """Make the objective's teacher, where it has one, equal to the student."""
        if self.objective is not None:
            self.objective.start_teacher(self.eegformer)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's groups: no decay on biases, normalisation, positions, class token and codes."""
        plain_names = ("bias", "pos_embed", "class_patch", "codebook.weight")
        decayed: list[Tensor] = []
        plain: list[Tensor] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                exempt = parameter.ndim < 2 or name.endswith(plain_names)
                (plain if exempt else decayed).append(parameter)
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]

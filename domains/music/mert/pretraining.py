"""MERT's pretext task: codes of an acoustic teacher and the constant-Q spectrum, at masked frames (section 3)."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.music.mert.configuration import MertConfig
from domains.music.mert.mixture import add_pieces, place_pieces
from domains.music.mert.modeling import MertModel, initialise
from hub.modeling import PretextModel, PretextOutput
from hub.ssl import CodePredictionHead, code_prediction


class MertForPreTraining(PretextModel):
    """Encoder, a head for the codes of every codebook, and one for the constant-Q spectrum."""

    config: MertConfig
    config_class = MertConfig
    base_model_prefix = "mert"
    main_input_name = "input_values"
    input_modalities = "audio"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = MertModel._no_split_modules
    # An encoder's checkpoint has no heads; they start fresh.
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"^(code|cqt)_head\."]

    def __init__(self, config: MertConfig) -> None:
        """Create encoder and heads with fresh weights."""
        super().__init__(config)
        self.mert = MertModel(config)
        self.code_head = CodePredictionHead(
            config.hidden_size,
            codebooks=config.codebooks,
            codes=config.codebook_size + config.special_codes,
            dim=config.code_dim,
            temperature=config.code_temperature,
        )
        self.cqt_head = nn.Linear(config.hidden_size, config.cqt_bins)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(self, module)

    def forward(
        self,
        input_values: Tensor,
        codes: Tensor,
        masked: Tensor,
        attention_mask: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> PretextOutput:
        """Predict codes and spectrum of the masked frames.

        Args:
            input_values: Clean waveforms, ``(batch, samples)``; left as they are.
            codes: The teacher's, ``(batch, frames, codebooks)`` int64; frames beyond them are not used.
            masked: Frames to hide and predict, ``(batch, frames)``, true or 1.
            attention_mask: ``(batch, samples)``, true for real samples, or ``None`` when all are.
            noise: Pieces of other clips to add while training, ``(batch, pieces, 3)``; the targets stay those of the
                clean clip.

        Returns:
            Mean over masked frames of the codes' cross-entropy summed over codebooks, plus the weighted error of the
            spectrum, penalty of the features and cross-entropy at the frames that were not masked. Metrics are the
            terms at masked frames (``code_loss`` a codebook), the share of codes that were hit, and of frames that were
            masked.
        """
        heard = input_values
        if self.training and noise is not None:
            heard = add_pieces(input_values, place_pieces(noise, input_values.shape[1]))
        features = self.mert.features(heard.to(self.dtype))[:, : codes.shape[1]]
        # The value stays; the gradient into the convolutions is scaled.
        share = self.config.feature_grad_mult
        features = features * share + features.detach() * (1 - share)
        codes, masked = codes[:, : features.shape[1]], masked[:, : features.shape[1]].bool()
        real = self._real_frames(attention_mask, features.shape[1])
        clean = self.mert.constant_q(input_values, self.config.cqt_bins)
        spectrum = self._heard_spectrum(heard, input_values, clean)
        projected = self.mert.project(features, heard.to(self.dtype), masked, spectrum)
        states = deque(self.mert.contextualise(projected, real), maxlen=1).pop()
        chosen = masked if real is None else masked & real
        logits = self.code_head(states[chosen])
        targets = codes[chosen] + self.config.special_codes
        code_loss = code_prediction(logits, targets)
        predicted = self.cqt_head(states[chosen])
        cqt_loss = F.mse_loss(predicted.float(), clean[:, : features.shape[1]][chosen])
        penalty = features.float().square().mean()
        loss = code_loss + self.config.cqt_weight * cqt_loss + self.config.features_penalty * penalty
        if self.config.unmasked_weight:
            plain = ~masked if real is None else ~masked & real
            plain_targets = codes[plain] + self.config.special_codes
            loss = loss + self.config.unmasked_weight * code_prediction(self.code_head(states[plain]), plain_targets)
        return PretextOutput(
            loss=loss,
            metrics={
                "code_loss": code_loss.detach() / self.config.codebooks,
                "code_accuracy": (logits.argmax(-1) == targets).float().mean(),
                "cqt_loss": cqt_loss.detach(),
                "features_penalty": penalty.detach(),
                "masked_share": chosen.float().mean(),
            },
            predictions=predicted,
            states=states,
            states_mask=real,
        )

    def _heard_spectrum(self, heard: Tensor, clean_clips: Tensor, clean: Tensor) -> Tensor | None:
        """Return what the encoder reads of the constant-Q spectrum: the target itself, but where noise was added."""
        config = self.config
        if not config.feature_extractor_cqt or config.feature_extractor_cqt_bins != config.cqt_bins:
            return None
        noisy = (heard != clean_clips).any(1)
        if not noisy.any():
            return clean
        clean = clean.clone()
        clean[noisy] = self.mert.constant_q(heard[noisy], config.cqt_bins)
        return clean

    def _real_frames(self, mask: Tensor | None, frames: int) -> Tensor | None:
        if mask is None or bool(mask.all()):
            return None
        lengths = [self.config.frames(length) for length in mask.long().sum(1).tolist()]
        return torch.arange(frames, device=mask.device) < torch.tensor(lengths, device=mask.device).unsqueeze(1)

"""MERLIN's pretext task: the reflectivity seen in one part must explain the other (paper, section II)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from domains.sar.merlin.configuration import MerlinConfig
from domains.sar.merlin.modeling import MerlinModel
from hub.modeling import PretextModel, PretextOutput

EPSILON = 1e-6
"""Added to the reflectivity, which a part of the image can drive to zero."""


def merlin_loss(log_reflectivity: Tensor, target: Tensor) -> Tensor:
    """Return the negative log-likelihood of each pixel, up to a constant.

    Fully developed speckle of one look has independent parts b ~ N(0, R / 2), so
    -log p(b | R) = (1/2) log R + b^2 / R + const (Dalsasso, Denis, Tupin 2022, section II).

    Args:
        log_reflectivity: log R as estimated from one part, any shape.
        target: b, the other part in digital numbers, same shape.
    """
    # b^2 / (R + epsilon) in logarithms: an R beyond the range of float32, which a fresh network can give, would
    # otherwise leave a gradient of 0 times infinity.
    log_epsilon = log_reflectivity.new_tensor(EPSILON).log()
    return 0.5 * log_reflectivity + target.square() * (-torch.logaddexp(log_reflectivity, log_epsilon)).exp()


class MerlinForPreTraining(PretextModel):
    """The network with MERLIN's statistical loss."""

    config: MerlinConfig
    config_class = MerlinConfig
    base_model_prefix = "merlin"
    main_input_name = "inputs"
    input_modalities = "image"
    _no_split_modules: ClassVar[list[str]] = []

    def __init__(self, config: MerlinConfig) -> None:
        """Create the network with fresh weights.

        Raises:
            ValueError: The configuration is of detected input, which has no second part.
        """
        if config.input != "complex":
            raise ValueError("MERLIN is trained on complex images; a configuration of detected input has no such task")
        super().__init__(config)
        self.merlin = MerlinModel(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()

    def forward(self, inputs: Tensor, targets: Tensor, valid: Tensor | None = None) -> PretextOutput:
        """Estimate the reflectivity from one part and score it on the other.

        Args:
            inputs: ``(patches, 1, rows, columns)``, one part in digital numbers.
            targets: The other part, same shape.
            valid: Which pixels hold data, same shape; ``None`` when all do. Empty pixels would be explained ever
                better by ever smaller reflectivities.

        Returns:
            The mean loss over the valid pixels; metric ``intensity_ratio``, the mean estimated intensity over the
            mean measured one (1 without bias); the normalised log-amplitudes.
        """
        predictions = self.merlin.network(self.merlin.normalise(inputs))
        config = self.config
        log_reflectivity = 2 * (predictions.float() * config.log_range + config.log_minimum)
        losses = merlin_loss(log_reflectivity, targets.float())
        weights = torch.ones_like(losses) if valid is None else valid.to(losses.dtype)
        count = weights.sum().clamp(min=1)
        with torch.no_grad():
            measured = (2 * targets.float().square() * weights).sum()
            ratio = (log_reflectivity.exp() * weights).sum() / measured.clamp(min=EPSILON)
        return PretextOutput(
            loss=(losses * weights).sum() / count, metrics={"intensity_ratio": ratio}, predictions=predictions
        )

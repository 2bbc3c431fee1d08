"""Configuration of GraphMAE on molecules."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from domains.graphs.molecules.configuration import ChemGNNConfig


@strict
class GraphMAEMolConfig(ChemGNNConfig):
    """Sizes of the encoder, and the sharpness of the loss.

    Attributes:
        gamma: Exponent of the scaled cosine error, at least 1; the paper's alpha.
    """

    model_type = "graphmae-mol"

    gamma: float | int = 1.0

    def validate_gamma(self) -> None:
        """Raise ValueError when the exponent is below 1."""
        if self.gamma < 1:
            raise ValueError(f"gamma={self.gamma}: the exponent of the scaled cosine error is at least 1")

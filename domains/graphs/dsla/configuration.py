"""Configuration of D-SLA: the encoder, and what its three losses weigh."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from domains.graphs.molecules.configuration import ChemGNNConfig


@strict
class DslaConfig(ChemGNNConfig):
    """Sizes of the encoder, the candidates, and the losses. The defaults are the published ones for molecules.

    Attributes:
        perturbed: Perturbed copies of each graph, at strengths 1 to this number.
        strong: Whether one more copy, perturbed all over the graph, is told from the original too.
        edit_weight: Weight of the edit-distance loss.
        margin_weight: Weight of the margin loss; 0 leaves it out.
        margin: By how much other graphs should lie farther away than perturbed copies.
    """

    model_type = "dsla"

    perturbed: int = 3
    strong: bool = True
    edit_weight: float | int = 0.7
    margin_weight: float | int = 0.5
    margin: float | int = 5.0

    def validate_candidates(self) -> None:
        """Raise ValueError when there is nothing to compare, or a weight is negative."""
        if self.perturbed + self.strong < 2:
            raise ValueError(
                f"perturbed={self.perturbed}, strong={self.strong}: the edit-distance loss compares at least two "
                "perturbed copies"
            )
        for name in ("edit_weight", "margin_weight", "margin"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")

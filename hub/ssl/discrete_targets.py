"""Masked prediction of discrete codes, from one or several codebooks (HuBERT, MERT)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_positive
from hub.ssl.distributed import mean_share
from hub.ssl.precision import in_full_precision


class CodePredictionHead(nn.Module):
    """Scores of every code of every codebook, by cosine to learned code embeddings.

    Hsu et al. 2021 (HuBERT), Eq. 3, with a separate projection for each codebook as in MERT
    (Li et al. 2024).

    Attributes:
        projection: hidden width to `codebooks * dim`.
        embeddings: `(codebooks, codes, dim)`.
    """

    def __init__(self, hidden: int, *, codebooks: int, codes: int, dim: int, temperature: float = 0.1) -> None:
        """Build the head.

        Args:
            hidden: width of the encoder's states.
            codebooks: their number.
            codes: classes of each codebook.
            dim: width of a code embedding.
            temperature: divides the cosines.

        Raises:
            ValueError: if a number is not positive.
        """
        super().__init__()
        check_positive(hidden=hidden, codebooks=codebooks, codes=codes, dim=dim, temperature=temperature)
        self.temperature = temperature
        self.projection = nn.Linear(hidden, codebooks * dim)
        self.embeddings = nn.Parameter(torch.rand(codebooks, codes, dim))

    def forward(self, states: Tensor) -> Tensor:
        """Score the codes at each place; pass masked places only to save memory.

        Args:
            states: `(places, hidden)`.

        Returns:
            `(places, codebooks, codes)` logits.
        """
        projected = self.projection(states).unflatten(-1, (len(self.embeddings), -1))
        return code_logits(projected, self.embeddings, temperature=self.temperature)


@in_full_precision
def code_logits(projected: Tensor, embeddings: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Cosine of projected states to code embeddings, over a temperature.

    Args:
        projected: `(places, codebooks, dim)`.
        embeddings: `(codebooks, codes, dim)`.
        temperature: divides the cosines.

    Returns:
        `(places, codebooks, codes)`.
    """
    return torch.einsum("pkd,kcd->pkc", F.normalize(projected, dim=-1), F.normalize(embeddings, dim=-1)) / temperature


@in_full_precision
def code_prediction(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of code predictions, summed over codebooks, mean over places.

    Hsu et al. 2021 (HuBERT), Eq. 1 with the sum over clusterings of section 2.3. Pass masked
    places only (HuBERT's alpha = 1).

    Args:
        logits: `(places, codebooks, codes)`.
        targets: `(places, codebooks)` int64 codes.

    Returns:
        Scalar; uniform logits score `codebooks * log(codes)`.

    Raises:
        ValueError: if the shapes do not fit, or no process has a place.
    """
    if logits.dim() != 3 or targets.shape != logits.shape[:2]:
        raise ValueError(
            "logits (places, codebooks, codes) and targets (places, codebooks) do not fit: "
            f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    per_code = F.cross_entropy(logits.flatten(end_dim=1), targets.flatten(), reduction="none")
    return mean_share(per_code.reshape(targets.shape).sum(dim=1))

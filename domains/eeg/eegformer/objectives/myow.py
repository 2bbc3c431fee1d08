"""MYOW: bring your own view, mined among other recordings (Azabou et al. 2021, arXiv 2102.10106)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.objectives import Objective, Rows, by_sample
from hub.modeling import masked_mean
from hub.ssl.distillation import byol, negative_cosine
from hub.ssl.teacher import EMATeacher, cosine_momentum

if TYPE_CHECKING:
    from domains.eeg.eegformer.modeling import EEGFormerModel

RAMP = 0.1
"""Share of the run over which the weight of mined views rises."""


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """Return projector or predictor: linear, batch normalisation, ReLU, linear."""
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


@torch.no_grad()
def mine(queries: Tensor, pool: Tensor, neighbours: int, draws: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Draw for each query one of its nearest neighbours by cosine.

    Args:
        queries: ``(queries, width)`` representations of the student.
        pool: ``(candidates, width)`` representations of the teacher.
        neighbours: From how many nearest ones to draw.
        draws: ``(queries,)`` in [0, 1).
        allowed: ``(queries, candidates)`` bool; every query needs a candidate that is.

    Returns:
        ``(queries,)`` indices into the pool.
    """
    similarity = F.normalize(queries, dim=-1) @ F.normalize(pool, dim=-1).T
    if allowed is not None:
        similarity = similarity.masked_fill(~allowed, -torch.inf)
    ranked = similarity.argsort(dim=-1, descending=True, stable=True)
    offered = similarity.isfinite().sum(-1).clamp(max=neighbours)
    return ranked.gather(1, (draws * offered).long()[:, None])[:, 0]


class MYOW(Objective):
    """BYOL between two augmented views, and from a window to a near one of another recording.

    The teacher's representations of the batch's other recordings are the pool. Mined views are predicted in a second
    projection, cascaded on the first.
    """

    progress: Tensor

    def __init__(self, config: EEGFormerConfig, model: EEGFormerModel) -> None:
        """Create projectors, predictors and the teacher.

        Args:
            config: Sizes and weights.
            model: The student, which the teacher starts as.
        """
        super().__init__()
        self.config = config
        width, small = config.projection_size, config.projection_size // 2
        self.projector = mlp(config.hidden_size, 2 * config.hidden_size, width)
        self.mined_projector = mlp(width, 2 * width, small)
        self.predictor = mlp(width, 2 * width, width)
        self.mined_predictor = mlp(small, 2 * small, small)
        self.teacher = EMATeacher(self._student(model))
        self.register_buffer("progress", torch.zeros(()))

    def _student(self, model: EEGFormerModel) -> nn.ModuleDict:
        """Return what the teacher follows."""
        return nn.ModuleDict({"model": model, "projector": self.projector, "mined_projector": self.mined_projector})

    def update_teacher(self, model: EEGFormerModel, progress: float) -> None:
        """Move the teacher; its momentum rises from ``ema_momentum`` to 1 by a half cosine."""
        self.progress.fill_(progress)
        momentum = cosine_momentum(round(1000 * progress), 1000, start=self.config.ema_momentum)
        self.teacher.update(self._student(model), momentum)

    def start_teacher(self, model: EEGFormerModel) -> None:
        """Make the teacher equal to the student."""
        self.teacher.update(self._student(model), 0.0)

    @property
    def mined_weight(self) -> float:
        """Weight of mined views at this moment of the run."""
        rise = (float(self.progress) - self.config.mined_from) / RAMP
        return self.config.mined_weight * min(max(rise, 0.0), 1.0)

    def forward(self, model: EEGFormerModel, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch and its terms."""
        second = rows.views["second_values"][rows.real].to(rows.values.dtype)
        *_, other = model.encode(second, rows.mask)
        online = [self._represent(model, states, rows) for states in (rows.states, other)]
        projected = [self.projector(y) for y in online]
        taught, targets = [], []
        teacher = cast(Any, self.teacher.model)
        with torch.no_grad():
            for values in (rows.values, second):
                *_, states = teacher["model"].encode(values, rows.mask)
                taught.append(self._represent(model, states, rows))
                targets.append(teacher["projector"](taught[-1]))
        augmented = byol(*(self.predictor(z) for z in projected), *targets) / 2
        weight = self.mined_weight
        allowed = rows.views["origin"][:, None] != rows.views["origin"]
        found = allowed.any(1)
        mined = augmented.new_zeros(())
        if weight and int(found.sum()) > 1:
            chosen = mine(
                online[0], taught[1], self.config.mined_neighbours, rows.views["draw"], allowed | ~found[:, None]
            )
            prediction = self.mined_predictor(self.mined_projector(projected[0][found]))
            with torch.no_grad():
                target = teacher["mined_projector"](targets[1][chosen[found]])
            mined = 2 + 2 * negative_cosine(prediction, target)
        return (augmented + weight * mined) / (1 + weight), {"augmented": augmented, "mined": mined}

    def _represent(self, model: EEGFormerModel, states: Tensor, rows: Rows) -> Tensor:
        """Return a vector for each sample: the mean over its tokens."""
        return by_sample(masked_mean(model.tokens_of(states), rows.mask), rows.real)

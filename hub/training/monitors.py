"""Collapse monitors: how the encoder's embeddings of the same few samples spread, while it trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch

from hub.errors import InvalidInput
from hub.evaluation.geometry import off_diagonal_correlation, rankme, unit_spread
from hub.modeling import EmbeddingModel
from hub.processing import Processor
from hub.training.collation import seeded_generator
from hub.training.data import TrainingData
from hub.training.embedding import embed_prepared, in_eval_mode

logger = logging.getLogger("fmhub.training")

SAMPLES = 128
COST_LIMIT = 8
"""In units of the processor's ``batch_cost``: the samples stay prepared in memory for the whole run."""

COLLAPSED = 0.05
"""Below this ``unit_std`` (1 for evenly spread directions) all samples get nearly the same embedding."""


class CollapseMonitor:
    """Embeds a fixed random choice of the training samples and describes how they spread.

    The samples are prepared as for embedding, without crops or masks, so that a value can be compared through the run.
    """

    def __init__(self, data: TrainingData, processor: Processor, seed: int) -> None:
        """Prepare the samples.

        Args:
            data: Training data to choose from.
            processor: Prepares and pads.
            seed: Of the choice.
        """
        self.processor = processor
        self.features: list[object] = []
        self.costs: list[int] = []
        for index in torch.randperm(len(data), generator=seeded_generator(seed, 3)).tolist():
            if len(self.costs) == SAMPLES or sum(self.costs) > COST_LIMIT * processor.batch_cost:
                break
            sample = data.sample(index)
            try:
                self.features.append(processor.prepare(sample))
            except InvalidInput:
                continue  # of use to the pretext task, but too short to embed
            self.costs.append(processor.cost(sample))

    def figures(self, encoder: EmbeddingModel) -> Mapping[str, float]:
        """Return ``rankme``, ``unit_std`` and ``correlation`` of the encoder's pooled embeddings.

        Args:
            encoder: In any mode; it is left in the mode it came in.

        Returns:
            The effective rank (at most the number of samples); the mean standard deviation of the unit vectors times
            sqrt(dimension), near 1 where they spread evenly and 0 after a collapse; and the mean absolute correlation
            between two dimensions. Empty when fewer than two samples can be embedded.
        """
        if len(self.features) < 2:
            return {}
        with in_eval_mode(encoder):
            matrix = embed_prepared(encoder, self.processor, self.features, self.costs).numpy()
        if not np.isfinite(matrix).all():
            return {}
        rank, spread = rankme(matrix), unit_spread(matrix)
        if spread < COLLAPSED:
            logger.warning("the embeddings have collapsed: unit_std is %.2g, RankMe %.3g", spread, rank)
        return {"rankme": rank, "unit_std": spread, "correlation": off_diagonal_correlation(matrix)}

"""Offline clustering: DeepClusterV2, a feature memory with spherical k-means."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_positive
from hub.ssl.distributed import from_first_process, gather_rows, mean_share
from hub.ssl.precision import in_full_precision

UNASSIGNED = -1


@torch.no_grad()
@in_full_precision
def spherical_kmeans(
    features: Tensor, clusters: int, *, generator: torch.Generator, iterations: int = 10
) -> tuple[Tensor, Tensor]:
    """Cluster directions: k-means by cosine with unit centroids.

    Starts from random rows; an empty cluster keeps its centroid.

    Args:
        features: `(samples, dim)`; any scale. The same rows on every process.
        clusters: number of clusters.
        generator: source of the first centroids, on the device of `features`. Processes use the
            draw of process 0.
        iterations: rounds of assigning and averaging.

    Returns:
        `(clusters, dim)` unit centroids and `(samples,)` int64 assignments to them.

    Raises:
        ValueError: if there are fewer samples than clusters.
    """
    check_positive(clusters=clusters, iterations=iterations)
    if len(features) < clusters:
        raise ValueError(
            f"k-means needs at least as many samples as clusters, got {len(features)} samples "
            f"for {clusters} clusters; use fewer clusters"
        )
    unit = F.normalize(features, dim=1)
    first = torch.randperm(len(unit), generator=generator, device=unit.device)[:clusters]
    centroids = unit[from_first_process(first)]
    for _ in range(iterations):
        nearest = (unit @ centroids.T).argmax(dim=1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, unit)
        filled = torch.bincount(nearest, minlength=clusters)[:, None] > 0
        centroids = torch.where(filled, F.normalize(sums, dim=1), centroids)
    return centroids, (unit @ centroids.T).argmax(dim=1)


class DeepClusterV2(nn.Module):
    """Predict the cluster that k-means over the last epoch's features gave each sample.

    Caron et al. 2020 (SwAV), appendix D. Each step: `loss`, then `remember`; at the start of
    each epoch `cluster`. Prototypes are centroids and are not trained. All state is saved.

    Attributes:
        memory: `(crops, num_samples, dim)` unit features seen last.
        seen: `(num_samples,)` bool, whether the memory holds the sample.
        assignments: `(heads, num_samples)` int64, -1 where there is none yet.
        prototypes_0, prototypes_1, ...: `(prototypes, dim)` of each head.
    """

    memory: Tensor
    seen: Tensor
    assignments: Tensor

    def __init__(
        self,
        num_samples: int,
        dim: int,
        *,
        crops: int = 2,
        prototypes: Sequence[int] = (3000, 3000, 3000),
    ) -> None:
        """Allocate an empty memory.

        Args:
            num_samples: size of the training set.
            dim: width of the projected features.
            crops: views of each sample that are remembered; head i clusters crop `i % crops`.
            prototypes: clusters of each head.

        Raises:
            ValueError: if a number is not positive, or a head has more prototypes than there are
                samples.
        """
        super().__init__()
        check_positive(num_samples=num_samples, dim=dim, crops=crops, heads=len(prototypes))
        if max(prototypes) > num_samples:
            raise ValueError(f"prototypes {tuple(prototypes)} must not exceed the {num_samples} samples")
        self.register_buffer("memory", torch.zeros(crops, num_samples, dim))
        self.register_buffer("seen", torch.zeros(num_samples, dtype=torch.bool))
        heads = len(prototypes)
        assignments = torch.full((heads, num_samples), UNASSIGNED, dtype=torch.long)
        self.register_buffer("assignments", assignments)
        self.heads = heads
        for head, count in enumerate(prototypes):
            self.register_buffer(f"prototypes_{head}", torch.zeros(count, dim))

    @torch.no_grad()
    @in_full_precision
    def remember(self, features: Tensor, index: Tensor) -> None:
        """Store the features of a batch, on all processes.

        Args:
            features: `(crops, batch, dim)`; any scale.
            index: `(batch,)` int64 number of each sample in the data set.

        Raises:
            ValueError: if the shapes do not fit.
        """
        crops, _, dim = self.memory.shape
        if features.shape != (crops, len(index), dim):
            raise ValueError(f"features must have shape ({crops}, {len(index)}, {dim}), got {tuple(features.shape)}")
        everywhere = gather_rows(index).values
        rows = gather_rows(F.normalize(features, dim=2).transpose(0, 1)).values
        self.memory[:, everywhere] = rows.transpose(0, 1).to(self.memory.dtype)
        self.seen[everywhere] = True

    @torch.no_grad()
    def cluster(self, *, generator: torch.Generator, iterations: int = 10) -> None:
        """Recompute prototypes and assignments from the memory; call at the start of an epoch.

        Args:
            generator: source of the first centroids, on the memory's device.
            iterations: of k-means.

        Raises:
            ValueError: if the memory holds fewer samples than a head has prototypes.
        """
        held = self.seen.nonzero()[:, 0]
        for head in range(self.heads):
            features = self.memory[head % len(self.memory), held]
            prototypes = self._prototypes(head)
            centroids, nearest = spherical_kmeans(features, len(prototypes), generator=generator, iterations=iterations)
            prototypes.copy_(centroids)
            self.assignments[head].fill_(UNASSIGNED)
            self.assignments[head, held] = nearest

    @in_full_precision
    def loss(self, features: Tensor, index: Tensor, *, temperature: float = 0.1) -> Tensor:
        """Cross-entropy of every crop to its sample's assignment, mean over the heads.

        Args:
            features: `(views, batch, dim)` projected features of all crops; any scale.
            index: `(batch,)` int64 number of each sample in the data set.
            temperature: divides the cosines to the prototypes.

        Returns:
            Scalar; samples without an assignment are left out.

        Raises:
            ValueError: if no sample of the global batch has one: call `cluster` first.
        """
        check_positive(temperature=temperature)
        unit = F.normalize(features, dim=2)
        losses = []
        for head in range(self.heads):
            label = self.assignments[head, index]
            if not bool(gather_rows(label != UNASSIGNED).values.any()):
                raise ValueError("no sample has an assignment: call cluster() before loss()")
            logits = unit @ self._prototypes(head).to(unit.dtype).T / temperature
            target = label.clamp(min=0).expand(len(unit), -1)
            value = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
            losses.append(mean_share(value, weights=label != UNASSIGNED))
        return torch.stack(losses).mean()

    def _prototypes(self, head: int) -> Tensor:
        return self.get_buffer(f"prototypes_{head}")

"""SelfPatch: a patch should agree with the gist of its most similar neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hub.ssl._checks import check_positive
from hub.ssl.dino import masked_patch_distillation
from hub.ssl.precision import in_full_precision

NOWHERE = -1
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def patch_neighbours(height: int, width: int, *, wrap: bool = False) -> Tensor:
    """Indexes of the eight neighbours of every patch of a grid.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        wrap: let neighbours wrap around the border. The authors' code does, so that a corner's
            "neighbours" lie on the opposite edge; only useful to repeat its results.

    Returns:
        `(height * width, 8)` int64, patches row by row from the upper left, neighbours in
        ascending order; -1 outside the grid.

    Raises:
        ValueError: if the grid is empty.
    """
    check_positive(height=height, width=width)
    row = torch.arange(height)[:, None, None] + torch.tensor([dy for dy, _ in NEIGHBOURS])
    column = torch.arange(width)[None, :, None] + torch.tensor([dx for _, dx in NEIGHBOURS])
    index = (row % height) * width + column % width
    if not wrap:
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = torch.where(inside, index, NOWHERE)
    return index.flatten(end_dim=1).sort(dim=1).values


@torch.no_grad()
@in_full_precision
def similar_neighbours(features: Tensor, neighbours: Tensor, *, k: int = 4) -> Tensor:
    """Which of its neighbours each patch resembles most, by cosine.

    Yun et al. 2022 (SelfPatch), Eq. 4.

    Args:
        features: `(batch, patches, dim)` teacher features.
        neighbours: `(patches, 8)` from `patch_neighbours`.
        k: how many to take.

    Returns:
        `(batch, patches, k)` int64 columns of `neighbours`, most similar first; columns outside
        the grid come last.

    Raises:
        ValueError: if the numbers of patches differ.
    """
    if features.dim() != 3 or features.shape[1] != len(neighbours):
        raise ValueError(f"features must have shape (batch, {len(neighbours)}, dim), got {tuple(features.shape)}")
    unit = F.normalize(features, dim=2)
    around = unit[:, neighbours.clamp(min=0)]  # (batch, patches, 8, dim)
    similarity = torch.einsum("bpd,bpnd->bpn", unit, around)
    outside = neighbours == NOWHERE
    return similarity.masked_fill(outside, float("-inf")).topk(k, dim=2).indices


class NeighbourAggregation(nn.Module):
    """Class attention that sums up each patch's most similar neighbours.

    Yun et al. 2022, section 3.2: a learned query attends to the k chosen neighbours through two
    class-attention blocks (Touvron et al. 2021). Its output at the teacher is the target for the
    student's own patch.
    """

    def __init__(self, dim: int, heads: int, *, k: int = 4, depth: int = 2) -> None:
        """Build the blocks.

        Args:
            dim: width of the patch features.
            heads: attention heads.
            k: neighbours of each patch.
            depth: number of blocks.

        Raises:
            ValueError: if a number is not positive.
        """
        super().__init__()
        check_positive(dim=dim, heads=heads, k=k, depth=depth)
        self.k = k
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.blocks = nn.ModuleList(_ClassAttentionBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, neighbours: Tensor) -> Tensor:
        """Aggregate.

        Args:
            features: `(batch, patches, dim)`.
            neighbours: `(patches, 8)` from `patch_neighbours`.

        Returns:
            `(batch, patches, dim)`, one gist for each patch.
        """
        batch, patches, dim = features.shape
        chosen = similar_neighbours(features, neighbours, k=self.k)
        index = neighbours.expand(batch, -1, -1).gather(2, chosen)  # (batch, patches, k)
        flat = index.clamp(min=0).flatten(start_dim=1)[..., None].expand(-1, -1, dim)
        around = features.gather(1, flat).reshape(batch * patches, self.k, dim)
        outside = (index == NOWHERE).reshape(batch * patches, self.k)
        gist = self.query.expand(batch * patches, -1, -1)
        for block in self.blocks:
            gist = block(gist, around, outside)
        return self.norm(gist).reshape(batch, patches, dim)


class _ClassAttentionBlock(nn.Module):
    """Pre-norm attention of one query to itself and its patches, then an MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, query: Tensor, patches: Tensor, outside: Tensor) -> Tensor:
        tokens = self.norm_attention(torch.cat([query, patches], dim=1))
        # The query itself is always there, so no row is masked entirely.
        padding = F.pad(outside, (1, 0), value=False)
        attended, _ = self.attention(tokens[:, :1], tokens, tokens, key_padding_mask=padding, need_weights=False)
        query = query + attended
        return query + self.mlp(self.norm_mlp(query))


@in_full_precision
def self_patch(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Cross-entropy of the student's patches to the teacher's aggregated neighbours.

    Yun et al. 2022, Eq. 5; the method adds 0.1 of it, for every crop, to DINO's class term. The
    patch head and its centre are its own.

    Args:
        student: `(batch, patches, outputs)` logits of the student's patch tokens.
        teacher: `(batch, patches, outputs)` logits of the teacher's aggregated tokens for the
            same crop; no gradient reaches them.
        centre: `(outputs,)`.
        student_temperature: sharpening of the student.
        teacher_temperature: sharpening of the teacher.

    Returns:
        Scalar, mean over batch and patches.

    Raises:
        ValueError: if the shapes differ.
    """
    if student.dim() != 3 or student.shape != teacher.shape:
        raise ValueError(
            "student and teacher must have one shape (batch, patches, outputs), "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    every_patch = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    return masked_patch_distillation(
        student.flatten(end_dim=1),
        teacher.flatten(end_dim=1),
        every_patch,
        centre,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
    )

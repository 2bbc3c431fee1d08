"""Configuration of Alice: the backbone's sizes, the heads, and the course of a run."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from hub.configuration import EmbeddingConfig

BACKBONES = ("nnformer", "swin_unetr")
POSITION_TABLES = ("sinusoid", "zeros")
PATCH = 2
"""Voxels along each side of the finest cells, of both backbones."""


@strict
class AliceConfig(EmbeddingConfig):
    """Sizes of the encoder and decoder, of the heads and CASA, and the settings of the objective.

    The defaults are the published ones. Shares are of a run's optimiser steps. Sides and windows are given from the
    finest stage to the deepest; the axes of a volume are x (left to right), y (back to front), z (foot to head).

    Attributes:
        backbone: ``nnformer``, or ``swin_unetr`` with the names and shapes of MONAI's.
        roi: Voxels along x, y and z of the window that the network is built for.
        embed_dim: Channels of the finest stage; each further stage has twice as many.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        window_size: Cells along each side of the attention windows, one number a stage. Of a ``swin_unetr`` all equal.
        mlp_ratio: Width of the feed-forward sublayers, in widths of their stage.
        drop_path: Probability of skipping a residual branch of the last block; it rises from 0 at the first.
        published_index: Whether the relative positions of an ``nnformer`` are numbered as in the published code, where
            different offsets share a bias; published weights were trained so.
        position_table: ``sinusoid``, or ``zeros`` for published weights, whose table of small noise was never saved.
        use_v2: Whether a residual convolution stands before each stage of a ``swin_unetr``.
        levels: Which stages the token states hold, side by side; -1 is the deepest.
        token_level: On whose grid the tokens lie: finer stages are averaged to it, coarser ones repeated.
        head_hidden: Width of the head's two hidden layers.
        head_bottleneck: Width before the prototypes.
        head_batch_norm: Whether batch normalisation follows the two hidden layers. Off as published; on, what all crops
            have in common is taken out of the scores at once, which small sets of similar volumes need.
        head_outputs: Prototypes.
        teacher_shared_head: Whether the teacher scores tokens with its class prototypes, as published.
        casa_heads: Heads of the attention that aligns patches.
        casa_head_size: Width of each.
        casa_inner: Width of its feed-forward sublayer.
        casa_dropout: Of its outputs and attention weights.
        class_weight: Of the contrast between the two volumes.
        patch_weight: Of the contrast between a volume's patches.
        reconstruction_weight: Of half the voxels' mean squared error.
        student_temperature: Sharpening of the student.
        teacher_temperature_start: Sharpening of the teacher at first.
        teacher_temperature: Sharpening of the teacher after its warm-up.
        teacher_temperature_warmup: Share over which it rises evenly.
        teacher_momentum: Of the teacher at first; it rises to 1 by a half cosine.
        centre_momentum: Of the moving means of the teacher's logits.
        frozen_prototypes: Share at the beginning in which the prototypes do not learn.
        weight_decay_end: Weight decay at the end, to which the recipe's rises by a half cosine.
    """

    model_type = "alice"

    backbone: str = "nnformer"
    roi: list[int] | tuple[int, ...] = (64, 64, 64)
    embed_dim: int = 48
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    num_heads: list[int] | tuple[int, ...] = (6, 12, 24, 48)
    window_size: list[int] | tuple[int, ...] = (4, 4, 8, 4)
    mlp_ratio: float | int = 4.0
    drop_path: float | int = 0.2
    published_index: bool = True
    position_table: str = "sinusoid"
    use_v2: bool = False
    levels: list[int] | tuple[int, ...] = (-1,)
    token_level: int = -1
    head_hidden: int = 2048
    head_bottleneck: int = 256
    head_batch_norm: bool = False
    head_outputs: int = 512
    teacher_shared_head: bool = True
    casa_heads: int = 8
    casa_head_size: int = 64
    casa_inner: int = 2048
    casa_dropout: float | int = 0.1
    class_weight: float | int = 1.0
    patch_weight: float | int = 1.0
    reconstruction_weight: float | int = 10.0
    student_temperature: float | int = 0.1
    teacher_temperature_start: float | int = 0.008
    teacher_temperature: float | int = 0.01
    teacher_temperature_warmup: float | int = 0.03
    teacher_momentum: float | int = 0.996
    centre_momentum: float | int = 0.9
    frozen_prototypes: float | int = 0.001
    weight_decay_end: float | int = 0.4

    def __post_init__(self, **kwargs: object) -> None:
        """Keep lists, as JSON gives them back."""
        for name in ("roi", "depths", "num_heads", "window_size", "levels"):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    def validate_backbone(self) -> None:
        """Raise ValueError when a choice does not exist, or sizes do not fit together."""
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone={self.backbone!r} is none of {', '.join(BACKBONES)}")
        if self.position_table not in POSITION_TABLES:
            raise ValueError(f"position_table={self.position_table!r} is none of {', '.join(POSITION_TABLES)}")
        if not len(self.depths) == len(self.num_heads) == len(self.window_size):
            raise ValueError("depths, num_heads and window_size hold one number a stage")
        if self.backbone == "swin_unetr" and (len(self.depths) != 4 or len(set(self.window_size)) != 1):
            raise ValueError("a swin_unetr has four stages and windows of one size")
        if len(self.roi) != 3 or any(side < 1 or side % self.strides[-1] for side in self.roi):
            raise ValueError(f"roi={self.roi}: three sides, each a multiple of {self.strides[-1]} voxels")
        for heads, width in zip(self.num_heads, self.widths, strict=False):
            if width % heads:
                raise ValueError(f"{heads} heads do not divide a stage of {width} channels")

    def validate_levels(self) -> None:
        """Raise ValueError when a stage does not exist."""
        count = len(self.strides)
        for level in (*self.levels, self.token_level):
            if not -count <= level < count:
                raise ValueError(f"levels={self.levels}, token_level={self.token_level}: stages are 0 to {count - 1}")
        if not self.levels:
            raise ValueError("levels is empty; it names at least one stage")

    def validate_course(self) -> None:
        """Raise ValueError when a share or a momentum lies outside 0 to 1, or a temperature is not positive."""
        shares = ("teacher_temperature_warmup", "teacher_momentum", "centre_momentum", "frozen_prototypes", "drop_path")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
        for name in ("student_temperature", "teacher_temperature_start", "teacher_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")

    @property
    def strides(self) -> list[int]:
        """Voxels from one cell to the next in each map of the pyramid, finest first."""
        # SwinUNETR counts the patch embedding as a map of its own.
        count = len(self.depths) + (1 if self.backbone == "swin_unetr" else 0)
        return [PATCH * 2**stage for stage in range(count)]

    @property
    def widths(self) -> list[int]:
        """Channels of each map of the pyramid."""
        return [self.embed_dim * 2**stage for stage in range(len(self.strides))]

    @property
    def hidden_size(self) -> int:
        """Width of the token states."""
        return sum(self.widths[level] for level in self.levels)

    @property
    def num_hidden_layers(self) -> int:
        """0: stages differ in width, so there is one hidden state; `levels` chooses what is in it."""
        return 0

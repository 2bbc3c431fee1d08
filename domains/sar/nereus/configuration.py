"""Configuration of Nereus: sizes of the backbone, of DINO's head, and the course of a run."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict
from transformers import ResNetConfig, ViTConfig

from hub.configuration import EmbeddingConfig

BACKBONES = ("resnet", "vit")


@strict
class NereusConfig(EmbeddingConfig):
    """Sizes of a single-channel ResNet or ViT, of DINO's projection head, and DINO's schedules.

    The defaults are the published ResNet-50, and DINO's reference settings: what the authors changed of those is not
    published. Shares are of a run's optimiser steps.

    Attributes:
        pooling: As elsewhere; the summary that DINO's head reads (a ``vit``'s class token, else the mean) where empty.
        backbone: ``resnet`` or ``vit``.
        num_channels: Bands of an input image; 1, the single detected channel.
        image_size: Side of the position grid of a ``vit``, pixels; other sizes interpolate it.
        patch_size: Side of a patch of a ``vit``, pixels.
        hidden_size: Width of the token states; of a ``resnet`` that of its last stage, whatever is given.
        num_hidden_layers: Layers of a ``vit``; 0 for a ``resnet``, whose stages differ in width.
        num_attention_heads: Of each layer of a ``vit``; must divide ``hidden_size``.
        intermediate_size: Width of the feed-forward sublayer of a ``vit``.
        layer_norm_eps: Added to the variance inside each layer normalisation of a ``vit``.
        embedding_size: Channels of the stem of a ``resnet``.
        hidden_sizes: Channels of each stage of a ``resnet``.
        depths: Layers of each stage.
        layer_type: Of a ``resnet``: ``bottleneck`` or ``basic``.
        downsample_in_first_stage: Whether the first stage of a ``resnet`` halves the grid too.
        downsample_in_bottleneck: Whether a bottleneck strides in its first convolution, and not in the 3 x 3 one.
        initializer_range: Standard deviation of the initial weights of linear layers.
        head_hidden: Width of the projection head's two hidden layers.
        head_bottleneck: Width before the prototypes.
        head_batch_norm: Whether batch normalisation follows those two. Off in the reference; on, what all images have
            in common is taken out of the head's answers at once, which small sets need.
        head_outputs: Prototypes.
        student_temperature: Sharpening of the student.
        teacher_temperature_start: Sharpening of the teacher at first.
        teacher_temperature: Sharpening of the teacher after its warm-up.
        teacher_temperature_warmup: Share over which it rises evenly.
        teacher_momentum: Of the teacher at first; it rises to 1 by a half cosine.
        centre_momentum: Of the moving mean of the teacher's logits.
        frozen_prototypes: Share at the beginning in which the prototypes do not learn.
        weight_decay_end: Weight decay at the end of a run, to which the recipe's rises by a half cosine.
        segments: Classes of the segmentation decoder, in the order of their numbers; empty without a decoder.
        segmenter_width: Channels of that decoder.
    """

    model_type = "nereus"

    pooling: str = ""
    backbone: str = "resnet"
    num_channels: int = 1
    image_size: int = 256
    patch_size: int = 16
    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    intermediate_size: int = 1536
    layer_norm_eps: float | int = 1e-6
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 2048)
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    initializer_range: float | int = 0.02
    head_hidden: int = 2048
    head_bottleneck: int = 256
    head_batch_norm: bool = False
    head_outputs: int = 65_536
    student_temperature: float | int = 0.1
    teacher_temperature_start: float | int = 0.04
    teacher_temperature: float | int = 0.07
    teacher_temperature_warmup: float | int = 0.3
    teacher_momentum: float | int = 0.996
    centre_momentum: float | int = 0.9
    frozen_prototypes: float | int = 0.01
    weight_decay_end: float | int = 0.4
    segments: list[str] | tuple[str, ...] = ()
    segmenter_width: int = 64

    def __post_init__(self, **kwargs: object) -> None:
        """Take what follows from the backbone: width, number of hidden states, and the usual embedding."""
        self.hidden_sizes, self.depths, self.segments = list(self.hidden_sizes), list(self.depths), list(self.segments)
        if self.backbone == "resnet":
            self.hidden_size, self.num_hidden_layers = self.hidden_sizes[-1], 0
        if not self.pooling:
            self.pooling = "mean" if self.backbone == "resnet" else "first"
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Raise ValueError when a choice does not exist, or sizes do not fit together."""
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone={self.backbone!r} is none of {', '.join(BACKBONES)}")
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(f"hidden_sizes={self.hidden_sizes} and depths={self.depths}: one of each a stage")
        if self.backbone == "vit" and self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")
        if self.backbone == "vit" and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )

    def validate_course(self) -> None:
        """Raise ValueError when a share or a momentum lies outside 0 to 1, or a temperature is not positive."""
        for name in ("teacher_temperature_warmup", "teacher_momentum", "centre_momentum", "frozen_prototypes"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
        for name in ("student_temperature", "teacher_temperature_start", "teacher_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")

    @property
    def stride(self) -> int:
        """Pixels from one token to the next, along a row or a column."""
        if self.backbone == "vit":
            return self.patch_size
        return 4 * 2 ** (len(self.depths) - (0 if self.downsample_in_first_stage else 1))

    def resnet_config(self) -> ResNetConfig:
        """Return the backbone's configuration as transformers has it."""
        return ResNetConfig(
            num_channels=self.num_channels,
            embedding_size=self.embedding_size,
            hidden_sizes=list(self.hidden_sizes),
            depths=list(self.depths),
            layer_type=self.layer_type,
            downsample_in_first_stage=self.downsample_in_first_stage,
            downsample_in_bottleneck=self.downsample_in_bottleneck,
        )

    def vit_config(self) -> ViTConfig:
        """Return the backbone's configuration as transformers has it."""
        return ViTConfig(
            num_channels=self.num_channels,
            image_size=self.image_size,
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            layer_norm_eps=float(self.layer_norm_eps),
            initializer_range=float(self.initializer_range),
        )

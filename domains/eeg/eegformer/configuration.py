"""Configuration of EEGFormer: sizes, codebook, and the objective that trains it."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from hub.configuration import EmbeddingConfig

OBJECTIVES = ("reconstruction", "timedrl", "frames", "myow")
ACTIVATIONS = ("gelu", "relu")
UPDATES = ("gradient", "ema")


@strict
class EEGFormerConfig(EmbeddingConfig):
    """Sizes of encoder, codebook and decoder, and how they are trained.

    The defaults are EEGFormer-s. The parameter counts that are reported for the three sizes (1.9, 2.3 and 3.2 million)
    fix the feed-forward width, the width of the codes and a decoder without cross-attention; heads, activation, place
    of the normalisation, dropout and the codebook's update are reported nowhere, and are ours.

    Attributes:
        patch_size: Numbers in a token, as the processor delivers them.
        max_tokens: Most tokens in a row: learnable positions.
        hidden_size: Width of the token states and of the codes.
        num_hidden_layers: Encoder layers.
        num_decoder_layers: Decoder layers.
        num_attention_heads: Heads of each layer; must divide ``hidden_size``.
        intermediate_size: Width of the feed-forward sublayer.
        hidden_act: ``gelu`` or ``relu``.
        norm_first: Normalise before each sublayer instead of after it.
        final_norm: Normalise once more after the last layer of encoder and decoder.
        layer_norm_eps: Added to the variance inside every layer normalisation.
        hidden_dropout_prob: Dropout on the embedded tokens, on attention, and on each sublayer's output.
        initializer_range: Standard deviation of initial weights.
        class_token: A learnable token before each row (TimeDRL), which summarises the row.
        amplitude: Append to every token state the two numbers that the instance normalisation took from its row.
        codebook_size: Codes.
        codebook_update: ``gradient`` or ``ema``.
        codebook_decay: Share of the old averages of code use (and of the codes, with ``ema``) kept at each step.
        commitment_weight: Weight of the loss that draws states to their codes.
        revive_every: Optimiser steps between two revivals of dead codes; 0 for never.
        revive_below: Share of the mean use below which a code counts as dead.
        objective: ``reconstruction`` (the paper's), ``timedrl``, ``frames`` or ``myow``.
        projection_size: Width of the vectors that ``frames`` and ``myow`` compare.
        contrastive_weight: Weight of TimeDRL's instance loss beside its timestamp loss.
        temperature: Of the contrast between ``frames``' views.
        ema_momentum: Share of MYOW's teacher kept at the first step; it rises to 1 over the run.
        mined_weight: Largest weight of MYOW's mined views.
        mined_from: Progress of the run (0 to 1) at which mining begins.
        mined_neighbours: From how many nearest neighbours a mined view is drawn.
    """

    model_type = "eegformer"

    patch_size: int = 32
    max_tokens: int = 38
    hidden_size: int = 128
    num_hidden_layers: int = 6
    num_decoder_layers: int = 3
    num_attention_heads: int = 8
    intermediate_size: int = 512
    hidden_act: str = "gelu"
    norm_first: bool = False
    final_norm: bool = False
    layer_norm_eps: float | int = 1e-5
    hidden_dropout_prob: float | int = 0.1
    initializer_range: float | int = 0.02
    class_token: bool = False
    amplitude: bool = False
    codebook_size: int = 512
    codebook_update: str = "gradient"
    codebook_decay: float | int = 0.95
    commitment_weight: float | int = 0.25
    revive_every: int = 5
    revive_below: float | int = 0.05
    objective: str = "reconstruction"
    projection_size: int = 64
    contrastive_weight: float | int = 0.1
    temperature: float | int = 0.15
    ema_momentum: float | int = 0.99
    mined_weight: float | int = 0.1
    mined_from: float | int = 0.1
    mined_neighbours: int = 3

    def validate_sizes(self) -> None:
        """Raise ValueError when a size is not positive or the heads do not divide the width."""
        for name in (
            "patch_size",
            "max_tokens",
            "hidden_size",
            "num_hidden_layers",
            "num_decoder_layers",
            "num_attention_heads",
            "intermediate_size",
            "codebook_size",
            "projection_size",
            "mined_neighbours",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )

    def validate_choices(self) -> None:
        """Raise ValueError when a choice is none of those offered."""
        for name, known in (
            ("hidden_act", ACTIVATIONS),
            ("codebook_update", UPDATES),
            ("objective", OBJECTIVES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.objective == "timedrl" and not self.class_token:
            raise ValueError("objective='timedrl' compares class tokens: set class_token to true")
        for name in ("hidden_dropout_prob", "codebook_decay", "revive_below", "ema_momentum", "mined_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
        if self.revive_every < 0 or self.temperature <= 0:
            raise ValueError("revive_every must be 0 (never) or more, and temperature above 0")

"""Configuration of TERA: sizes of the encoder, what the pretext task alters, and its loss."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from hub.configuration import EmbeddingConfig

LOSSES = ("L1", "MSE")


@strict
class TeraConfig(EmbeddingConfig):
    """Sizes of the encoder and prediction head, and the alteration policy of pretraining.

    The defaults are TERA Base on 80 log-mel features with time, frequency and magnitude alteration and
    dropout 0.1, the model that SUPERB evaluates.

    Attributes:
        input_dim: Features of a frame that the processor delivers (80 log-mel, or 240 fbank with deltas).
        output_dim: Features of a frame that the head predicts; ``None`` for ``input_dim``.
        hidden_size: Width of the token states.
        num_hidden_layers: Transformer layers.
        num_attention_heads: Heads of each layer; must divide ``hidden_size``.
        intermediate_size: Width of the feed-forward sublayer.
        hidden_dropout_prob: Dropout on the input representation and on each sublayer's output.
        attention_probs_dropout_prob: Dropout on the attention probabilities.
        initializer_range: Standard deviation of the initial weights of linear layers.
        layer_norm_eps: Added to the variance inside every layer normalisation.
        share_layer: One layer's weights used at every depth (Audio ALBERT).
        pre_layer_norm: Normalise before each sublayer instead of after it, and once more on every hidden
            state.
        sequence_length: Frames above which an input is cut into equal chunks that are encoded apart; 0 for
            never.
        mask_proportion: Aimed share of frames to alter in time; 0 switches time alteration off.
        mask_consecutive_min: Smallest width of an altered block, frames.
        mask_consecutive_max: Largest width of an altered block, frames.
        mask_allow_overlap: Draw block starts freely instead of from a grid that keeps them apart.
        mask_bucket_ratio: Stride of that grid in block widths.
        mask_frequency: Largest share of feature columns to blank; 0 switches frequency alteration off.
        noise_proportion: Probability that a batch gets noise; 0 switches magnitude alteration off.
        noise_std: Standard deviation of that noise, in units of the normalised features.
        loss: ``"L1"`` or ``"MSE"``.
    """

    model_type = "tera"

    input_dim: int = 80
    output_dim: int | None = None
    hidden_size: int = 768
    num_hidden_layers: int = 3
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-12
    share_layer: bool = False
    pre_layer_norm: bool = False
    sequence_length: int = 1500
    mask_proportion: float | int = 0.15
    mask_consecutive_min: int = 7
    mask_consecutive_max: int = 7
    mask_allow_overlap: bool = True
    mask_bucket_ratio: float | int = 1.5
    mask_frequency: float | int = 0.2
    noise_proportion: float | int = 0.15
    noise_std: float | int = 0.2
    loss: str = "L1"

    def __post_init__(self, **kwargs: object) -> None:
        """Let the head predict what the encoder reads, unless told otherwise."""
        if self.output_dim is None:
            self.output_dim = self.input_dim
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Raise ValueError when a size is not positive or the heads do not divide the width."""
        for name in (
            "input_dim",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.sequence_length < 0:
            raise ValueError(f"sequence_length={self.sequence_length}: must be 0 (never chunk) or a number of frames")

    def validate_alteration(self) -> None:
        """Raise ValueError when the alteration policy cannot be carried out."""
        for name in ("mask_proportion", "noise_proportion"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
        if not 0 <= self.mask_frequency < 1:
            raise ValueError(f"mask_frequency={self.mask_frequency}: must be at least 0 and below 1")
        if not 1 <= self.mask_consecutive_min <= self.mask_consecutive_max:
            raise ValueError(
                f"mask_consecutive_min={self.mask_consecutive_min} and mask_consecutive_max="
                f"{self.mask_consecutive_max}: need 1 <= min <= max"
            )
        if self.mask_bucket_ratio < 1:
            raise ValueError(f"mask_bucket_ratio={self.mask_bucket_ratio}: below 1 the blocks would overlap")
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r}: choose one of {', '.join(LOSSES)}")

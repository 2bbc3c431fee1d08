"""Configuration of MERT: the encoder's sizes and variants, its windows, and the weights of the pretext losses."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
import math

from huggingface_hub.dataclasses import strict

from hub.configuration import EmbeddingConfig

CONV_NORMS = ("group", "layer")
Sizes = list[int] | tuple[int, ...]


@strict
class MertConfig(EmbeddingConfig):
    """Sizes and variants under the names of the published ``config.json``; the defaults are MERT-v1-95M.

    Attributes:
        sample_rate: Hz of the waveform.
        hidden_size: Width of the token states.
        num_hidden_layers: Transformer layers.
        num_attention_heads: Heads of each layer; must divide ``hidden_size``.
        intermediate_size: Width of the feed-forward sublayer.
        hidden_act: Its activation.
        conv_dim: Channels of each convolution of the waveform.
        conv_kernel: Their kernels, samples of their input.
        conv_stride: Their strides.
        conv_bias: Whether they have biases.
        feat_extract_norm: ``"group"``: each channel of the first convolution is normalised over time; ``"layer"``: each
            convolution's output over its channels.
        feat_extract_activation: Activation of the convolutions, and of that of positions.
        feat_proj_layer_norm: Normalise before the projection to ``hidden_size``.
        feature_extractor_cqt: Append a constant-Q spectrum to the convolutions' output.
        feature_extractor_cqt_bins: Its bins, over seven octaves from 32.7 Hz.
        feature_extractor_chroma: Factor of that spectrum folded to one octave, of unit length in each frame, appended
            as well; 0 leaves it out. Not of the paper.
        num_conv_pos_embeddings: Kernel of the convolution of positions.
        num_conv_pos_embedding_groups: Its groups.
        do_stable_layer_norm: Normalise before each sublayer and once at the end (330M) instead of after each (95M).
        deepnorm: DeepNorm's residual scale and initial weights; only where normalisation follows.
        layer_norm_eps: Added to variances.
        initializer_range: Standard deviation of the initial weights of linear layers.
        feat_proj_dropout: On the projected features.
        hidden_dropout: On sublayers' outputs.
        attention_dropout: On attention probabilities.
        activation_dropout: Inside the feed-forward sublayer.
        layerdrop: Probability that a layer is skipped in training.
        window_frames: Frames that are encoded together; longer recordings are cut to windows of so many. 374 are the
            5 s of the training, 0 encodes any length whole.
        window_overlap: Frames that neighbouring windows share at least.
        codebooks: Label sets to predict.
        codebook_size: Codes of the largest of them.
        special_codes: Classes before the codes that are never right: the four that fairseq's dictionaries begin with.
        code_dim: Width of a code embedding.
        code_temperature: Divides the cosines of the code scores.
        unmasked_weight: Of the codes' cross-entropy at frames that were not masked (HuBERT's second term); the paper's
            is 0.
        cqt_bins: Bins of the constant-Q spectrum to predict, over seven octaves.
        cqt_compression: c of ``log(1 + c * magnitude)``, taken of every constant-Q spectrum, input and target; 0 leaves
            magnitudes as they are, as the paper does.
        cqt_weight: Of that prediction's mean squared error.
        features_penalty: Weight of the mean square of the convolutions' output.
        feature_grad_mult: Factor of the gradient into the convolutions.
    """

    model_type = "mert"

    sample_rate: int = 24_000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    conv_dim: Sizes = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: Sizes = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: Sizes = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    feature_extractor_cqt: bool = False
    feature_extractor_cqt_bins: int = 336
    feature_extractor_chroma: float | int = 0.0
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    deepnorm: bool = False
    layer_norm_eps: float | int = 1e-5
    initializer_range: float | int = 0.02
    feat_proj_dropout: float | int = 0.1
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    layerdrop: float | int = 0.05
    window_frames: int = 374
    window_overlap: int = 75
    codebooks: int = 8
    codebook_size: int = 1024
    special_codes: int = 4
    code_dim: int = 64
    code_temperature: float | int = 0.1
    unmasked_weight: float | int = 0.0
    cqt_bins: int = 336
    cqt_compression: float | int = 0.0
    cqt_weight: float | int = 1.0
    features_penalty: float | int = 10.0
    feature_grad_mult: float | int = 0.1

    @property
    def num_feat_extract_layers(self) -> int:
        """Convolutions of the waveform."""
        return len(self.conv_dim)

    @property
    def hop(self) -> int:
        """Samples between two frames."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame is made of: the shortest waveform there is a frame of."""
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            field = (field - 1) * stride + kernel
        return field

    def frames(self, samples: int) -> int:
        """Return the frames of a waveform; 0 when it is too short for one.

        For these nested strides the seven roundings of the convolutions come to this one.
        """
        return max(0, (samples - self.receptive_field) // self.hop + 1)

    def validate_sizes(self) -> None:
        """Raise ValueError when sizes do not fit each other."""
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
            raise ValueError("conv_dim, conv_kernel and conv_stride must be lists of the same length")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads and "
                "of num_conv_pos_embedding_groups"
            )
        if self.window_frames and not 0 <= self.window_overlap < self.window_frames:
            raise ValueError(
                f"window_overlap={self.window_overlap}: from 0 to below window_frames={self.window_frames}"
            )

    def validate_variant(self) -> None:
        """Raise ValueError for a variant that does not exist."""
        if self.feat_extract_norm not in CONV_NORMS:
            raise ValueError(f"feat_extract_norm={self.feat_extract_norm!r}: choose one of {', '.join(CONV_NORMS)}")
        if self.deepnorm and self.do_stable_layer_norm:
            raise ValueError("deepnorm is for layers that normalise afterwards; do_stable_layer_norm must be false")
        if self.cqt_compression < 0:
            raise ValueError(f"cqt_compression={self.cqt_compression}: at least 0")
        for name in ("cqt_bins", "feature_extractor_cqt_bins"):
            if getattr(self, name) % 7 or getattr(self, name) < 7:
                raise ValueError(f"{name}={getattr(self, name)}: must be a multiple of 7, for seven octaves")
        if self.feature_extractor_chroma and not self.feature_extractor_cqt:
            raise ValueError("feature_extractor_chroma folds the constant-Q spectrum: it needs feature_extractor_cqt")
        if self.feature_extractor_cqt and self.sample_rate // 50 != self.hop:
            # The published code takes the spectrum 50 times a second, so at 24 kHz it fails on its shapes.
            raise ValueError(
                f"feature_extractor_cqt needs frames at 50 Hz, that is sample_rate={50 * self.hop}; at "
                f"{self.sample_rate} Hz the convolutions give {self.sample_rate / self.hop:g} frames a second"
            )

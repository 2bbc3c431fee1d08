"""Configuration of GraphMAE: sizes of encoder and decoder, and what the pretext task scores."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from domains.graphs.layers import ACTIVATIONS, NORMS
from hub.configuration import EmbeddingConfig

ENCODERS = ("gat", "gin", "gcn")
DECODERS = ("gat", "gin", "gcn", "mlp", "linear")
LOSSES = ("sce", "mse")


@strict
class GraphMAEConfig(EmbeddingConfig):
    """Sizes of encoder and decoder, and the loss of pretraining.

    The defaults are those of the published configuration for Cora. Every layer of an encoder is a hidden state; there
    is none before the first, since features and states differ in width.

    Attributes:
        input_dim: Features of a node.
        encoder: ``gat``, ``gin`` or ``gcn``.
        decoder: One layer of these, or ``mlp`` or ``linear``, which see each node alone.
        hidden_size: Width of the node states.
        num_hidden_layers: Layers of the encoder.
        num_attention_heads: Heads of each layer of a ``gat`` encoder; must divide ``hidden_size``.
        num_output_heads: Heads of a ``gat`` decoder; must divide ``input_dim``.
        feature_dropout: On the input of every layer.
        attention_dropout: On the attention of ``gat`` layers.
        negative_slope: Of the leaky ReLU on attention scores.
        norm: After every layer of the encoder: ``batchnorm``, ``layernorm`` or ``none``.
        activation: After every layer of the encoder: ``prelu``, ``relu`` or ``elu``.
        residual: A path around every layer of the encoder.
        concat_hidden: The decoder reads the states of all layers, and not of the last alone.
        loss: ``sce``, the scaled cosine error, or ``mse``.
        gamma: Exponent of the scaled cosine error, at least 1.
    """

    model_type = "graphmae"

    input_dim: int = 1433
    encoder: str = "gat"
    decoder: str = "gat"
    hidden_size: int = 512
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_output_heads: int = 1
    feature_dropout: float | int = 0.2
    attention_dropout: float | int = 0.1
    negative_slope: float | int = 0.2
    norm: str = "none"
    activation: str = "prelu"
    residual: bool = False
    concat_hidden: bool = False
    loss: str = "sce"
    gamma: float | int = 3

    def validate_choices(self) -> None:
        """Raise ValueError on a name that is none of those known."""
        for name, known in (
            ("encoder", ENCODERS),
            ("decoder", DECODERS),
            ("norm", ("none", *NORMS)),
            ("activation", tuple(ACTIVATIONS)),
            ("loss", LOSSES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(known)}")

    def validate_sizes(self) -> None:
        """Raise ValueError when a size is not positive or the heads do not divide a width."""
        for name in ("input_dim", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_output_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.encoder == "gat" and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.decoder == "gat" and self.input_dim % self.num_output_heads:
            raise ValueError(
                f"input_dim={self.input_dim} is not a multiple of num_output_heads={self.num_output_heads}"
            )
        if self.gamma < 1:
            raise ValueError(f"gamma={self.gamma}: must be at least 1")

    @property
    def norm_name(self) -> str | None:
        """The normalisation, or ``None``."""
        return None if self.norm == "none" else self.norm

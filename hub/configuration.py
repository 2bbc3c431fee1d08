"""The base class of every system's configuration."""

# No postponed annotations here or in subclasses: huggingface_hub's `strict` checks values against real types.

from transformers import PreTrainedConfig


class EmbeddingConfig(PreTrainedConfig):
    """What every system's configuration holds besides its architecture.

    Attributes:
        pooling: Default reduction of token states to one vector, one of the model's ``poolings``.
        layer: Default hidden state: an index (0 is the input representation, -1 the last layer), ``"average"``
            (all of them, uniformly or by ``layer_weights``) or ``"all"`` (concatenated along the features).
        layer_weights: Logits of the softmax over hidden states for ``layer="average"``; empty for uniform.
    """

    pooling: str = "mean"
    layer: int | str = -1
    layer_weights: list[float] | tuple[float, ...] = ()

"""Configuration of ParetoGNN: sizes of the encoder and of the tasks' heads."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from hub.configuration import EmbeddingConfig

TASKS = ("p_recon", "p_ming", "p_decor", "p_minsg", "p_link")
NORMS = ("batchnorm", "layernorm")


@strict
class ParetoGNNConfig(EmbeddingConfig):
    """Sizes of the GCN encoder, and the pretext tasks that share it.

    The defaults are those of the published runs on middle-sized graphs.

    Attributes:
        input_dim: Features of a node.
        hidden_sizes: Width of each layer of the encoder.
        hidden_size: Width of the node states, that of the last layer.
        num_hidden_layers: Their number.
        norm: After every layer: ``batchnorm`` or ``layernorm``.
        norm_momentum: Weight of the newest batch in the running statistics of a batch normalisation.
        dropout: Between layers.
        head_size: Width of the hidden layer of the tasks' heads.
        pretext_tasks: Which to train on: feature reconstruction ``p_recon``, node against graph ``p_ming``,
            decorrelation ``p_decor``, node against node of two views ``p_minsg`` and link prediction ``p_link``.
        gamma: Exponent of the scaled cosine error of ``p_recon``.
        temperature: Of ``p_minsg``.
        decorrelation_weight: Of the distance from the identity in ``p_decor``.
    """

    model_type = "paretognn"

    input_dim: int = 500
    hidden_sizes: list[int] | tuple[int, ...] = (512, 256)
    hidden_size: int = 256
    num_hidden_layers: int = 2
    norm: str = "batchnorm"
    norm_momentum: float | int = 0.99
    dropout: float | int = 0.0
    head_size: int = 512
    pretext_tasks: list[str] | tuple[str, ...] = TASKS
    gamma: float | int = 3
    temperature: float | int = 0.1
    decorrelation_weight: float | int = 1e-3

    def __post_init__(self, **kwargs: object) -> None:
        """Take what the widths tell from them."""
        if self.hidden_sizes:
            self.hidden_size = self.hidden_sizes[-1]
            self.num_hidden_layers = len(self.hidden_sizes)
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Raise ValueError when a size is not positive, or a name is none of those known."""
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes is empty: give the width of each layer")
        for name, value in (("input_dim", self.input_dim), ("head_size", self.head_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if min(self.hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes={list(self.hidden_sizes)}: must be at least 1 each")
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm!r} is none of {', '.join(NORMS)}")
        unknown = sorted(set(self.pretext_tasks) - set(TASKS))
        if unknown or not self.pretext_tasks:
            raise ValueError(f"pretext_tasks={list(self.pretext_tasks)}: choose of {', '.join(TASKS)}")

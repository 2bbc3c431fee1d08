"""Configuration of netFound: sizes of the encoder, which generation it is of, and its pretext losses."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from hub.configuration import EmbeddingConfig

POSITIONS = ("rotary", "learned")
METADATA_SCALES = ("raw", "log")
HEAD_TASKS = ("classification", "multilabel", "regression")


@strict
class NetFoundConfig(EmbeddingConfig):
    """Sizes of the encoder and the weights of its pretext losses.

    The defaults are the published netFound-small (second generation, 2026, headers without payload).

    Attributes:
        generation: 2 for the models of 2026; 1 for that of 2025 (netFound-640M-base), which has BERT's layers, no
            activation inside the metadata embedding, and other losses.
        vocab_size: Rows of the token table.
        hidden_size: Width of the token states.
        num_hidden_layers: Layers, each a step inside the bursts and a step between them.
        num_attention_heads: Heads of each step; must divide ``hidden_size``.
        intermediate_size: Width of the feed-forward sublayers.
        max_bursts: Most bursts of a flow.
        max_burst_length: Most tokens of a burst, its CLS token included: 73 without payload, 109 with it.
        metadata_hidden_size: Width inside the metadata embedding.
        word_scales: Further token tables, each with a row for so many neighbouring ids, added to that of single ids:
            with 16 and 384 values of about one size in a field, and all values of a field, have something in common.
        protocol_size: Rows of the protocol table, indexed by IP protocol number.
        positions: ``rotary`` inside and between bursts, or ``learned``: absolute inside a burst, none between bursts.
        metadata_scale: ``raw`` (bytes in thousands, packets, milliseconds) or ``log``: ln(1 + x) of each, as inputs and
            as targets.
        no_meta: Ablation: the metadata embedding is zero.
        flat: Ablation: no step between bursts.
        reference_padding: Encode padding and count it in the pooled embedding, as the published code does; an
            embedding then depends on what else is in its batch.
        hidden_dropout_prob: Dropout on the input representation and on the attention sublayer's output.
        mlp_dropout: Dropout in the feed-forward sublayer.
        attention_probs_dropout_prob: Dropout on the attention probabilities.
        initializer_range: Standard deviation of the initial weights.
        layer_norm_eps: Added to the variance in layer normalisation.
        norm_eps: The same in the normalisation before the gated feed-forward sublayer.
        softmax_levels: Masked tokens are predicted among so many ids only, those of their own field: `LEVELS` of the
            vocabulary ``fields``, or 0 for the whole vocabulary.
        mlm_probability: Share of the tokens to predict.
        swap_rate: Share of the flows of which one burst is swapped.
        metadata_probability: Share of the bursts whose metadata are hidden and predicted.
        mlm_loss_weight: Weight of the loss on masked tokens; 0 leaves the loss out, as for the next three.
        swap_loss_weight: Of telling flows with a swapped burst.
        metadata_loss_weight: Of the hidden metadata.
        direction_loss_weight: Of the direction of the bursts with hidden metadata.
        view_loss_weight: Of VICReg between two corruptions of each flow, mean and deviation of their token states
            projected; not of the paper.
        view_size: Width of that projection.
        head_labels: Names of the outputs of a head that was fine-tuned with the published code; empty without one.
        head_task: What that head does: ``classification``, ``multilabel`` or ``regression``.
    """

    model_type = "netfound"

    generation: int = 2
    vocab_size: int = 65_600
    hidden_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 768
    max_bursts: int = 12
    max_burst_length: int = 73
    metadata_hidden_size: int = 1024
    word_scales: list[int] | tuple[int, ...] = ()
    protocol_size: int = 18
    positions: str = "rotary"
    metadata_scale: str = "raw"
    no_meta: bool = False
    flat: bool = False
    reference_padding: bool = False
    hidden_dropout_prob: float | int = 0.1
    mlp_dropout: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-12
    norm_eps: float | int = 1e-5
    softmax_levels: int = 0
    mlm_probability: float | int = 0.3
    swap_rate: float | int = 0.5
    metadata_probability: float | int = 0.3
    mlm_loss_weight: float | int = 1.0
    swap_loss_weight: float | int = 1.0
    metadata_loss_weight: float | int = 1.0
    direction_loss_weight: float | int = 1.0
    view_loss_weight: float | int = 0.0
    view_size: int = 256
    head_labels: list[str] | tuple[str, ...] = ()
    head_task: str = "classification"

    @property
    def losses(self) -> dict[str, float]:
        """Weight of each loss by name."""
        return {
            "mlm": float(self.mlm_loss_weight),
            "swap": float(self.swap_loss_weight),
            "metadata": float(self.metadata_loss_weight),
            "direction": float(self.direction_loss_weight),
            **({"view": float(self.view_loss_weight)} if self.view_loss_weight else {}),
        }

    def validate_sizes(self) -> None:
        """Raise ValueError when a size is not positive or the heads do not divide the width."""
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_bursts",
            "metadata_hidden_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.max_burst_length < 2:
            raise ValueError(f"max_burst_length={self.max_burst_length}: a burst has a CLS token and at least one more")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}"
            )
        if self.positions == "rotary" and self.hidden_size // self.num_attention_heads % 2:
            raise ValueError("rotary positions turn pairs, so the width of a head must be even")

    def validate_choices(self) -> None:
        """Raise ValueError on a choice that there is not."""
        if self.generation not in (1, 2):
            raise ValueError(f"generation={self.generation}: there are 1 and 2")
        choices = (("positions", POSITIONS), ("metadata_scale", METADATA_SCALES), ("head_task", HEAD_TASKS))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")

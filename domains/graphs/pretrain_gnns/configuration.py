"""Configuration of the pretrain-gnns encoders."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from domains.graphs.molecules.configuration import ChemGNNConfig


@strict
class PretrainGNNsConfig(ChemGNNConfig):
    """Sizes and kind of the encoder; see `ChemGNNConfig`."""

    model_type = "pretrain-gnns"

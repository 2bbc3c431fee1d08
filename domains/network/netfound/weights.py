"""Names of netFound's weights: the published layouts and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from domains.network.netfound.configuration import NetFoundConfig

# Published name to ours, tried in order.
_RULES = (
    (r"^base_transformer\.embeddings\.word_embeddings\.", "netfound.embedding.words."),
    (r"^base_transformer\.embeddings\.position_embeddings\.", "netfound.embedding.positions."),
    (r"^base_transformer\.embeddings\.LayerNorm\.", "netfound.embedding.norm."),
    (r"^base_transformer\.embeddings\.metaEmbeddingLayer1\.", "netfound.embedding.metadata_expand."),
    (r"^base_transformer\.embeddings\.metaEmbeddingLayer2\.", "netfound.embedding.metadata_contract."),
    (r"^base_transformer\.embeddings\.protoEmbedding\.", "netfound.embedding.protocols."),
    (r"^base_transformer\.embeddings\.compressEmbeddings\.", "netfound.embedding.compress."),
    (r"^base_transformer\.encoder\.(burst|flow)_positions\.weight$", r"netfound.\1_positions"),
    (r"\.attention\.self\.(query|key|value)\.", r".attention.\1."),
    (r"\.attention\.output\.dense\.", ".attention.output."),
    (r"\.attention\.output\.LayerNorm\.", ".attention.norm."),
    (r"\.mlp_norm\.", ".feed_forward.norm."),
    (r"\.(mlp\.Wi|intermediate\.dense)\.", ".feed_forward.expand."),
    (r"\.(mlp\.Wo|output\.dense)\.", ".feed_forward.contract."),
    (r"\.output\.LayerNorm\.", ".feed_forward.norm."),
    (r"^base_transformer\.encoder\.layer\.(\d+)\.(burst|flow)_encoder\.", r"netfound.layers.\1.\2."),
    (r"^lm_head\.layer_norm\.", "lm_head.norm."),
    (r"^attentivePooling\.lin_proj\.", "pooling_head.dense."),
    (r"^attentivePooling\.v\.", "pooling_head.score."),
    (r"^hiddenLayer(2?)\.", r"netfound.head.hidden\1."),
    (r"^classifier\.", "netfound.head.output."),
    (r"^swappedClassifierHiddenLayer\.", "swap_head."),
    (r"^linearMetadataPred\.", "metadata_head."),
    (r"^dirPred\.", "direction_head."),
)
# Without influence on what the published models compute: unused tables, the positions that a layer adds to states it
# then overwrites, a head that no loss reads, and second copies of tied weights.
_UNUSED = re.compile(
    r"token_type_embeddings|seg_embeddings|encoder\.layer\.\d+\.position_embeddings|^portClassifierHiddenLayer"
    r"|^lm_head\.decoder\.|\.position_ids$"
)


def our_name(published: str) -> str:
    """Return our name for a published weight; an unknown name as it is."""
    for pattern, ours in _RULES:
        published = re.sub(pattern, ours, published)
    return published


def from_published(weights: Mapping[str, Tensor], config: NetFoundConfig) -> dict[str, Tensor]:
    """Return the tensors of a published file that have a use, under our names.

    Args:
        weights: Under their published names.
        config: Says what has no use: rotary tables beside learned positions, and what an ablation leaves out.
    """
    ours = {our_name(name): tensor for name, tensor in weights.items() if not _UNUSED.search(name)}
    if config.head_labels:
        # Fine-tuned: the pooling is that of the classifier, and there is no pretext task.
        ours = {re.sub(r"^pooling_head\.", "netfound.head.pooling.", name): tensor for name, tensor in ours.items()}
    idle = (
        (config.positions == "learned", r"\.(burst|flow)_positions$"),
        (config.no_meta, r"\.metadata_(expand|contract)\."),
        (config.flat, r"\.layers\.\d+\.flow\."),
    )
    patterns = [pattern for without, pattern in idle if without]
    return {name: tensor for name, tensor in ours.items() if not any(re.search(p, name) for p in patterns)}

"""Self-supervised objectives as pure functions of tensors.

What has memory (queue, centre, codebook, temperatures, EMA teacher) is a small `nn.Module` whose
buffers are saved and restored with the training state. Losses compute in float32 under any
autocast, and see the global batch of all processes: see `hub.ssl.distributed` for the convention.
Random draws take an explicit `torch.Generator`.
"""

from hub.ssl.attraction_repulsion import cacr, cacr_attraction, cacr_repulsion
from hub.ssl.block_masking import BlockCorruption, block_mask, corrupt_blocks
from hub.ssl.clustering import Prototypes, sinkhorn, swav
from hub.ssl.contrastive import info_nce, moco_v3, multi_view_contrastive, nt_xent
from hub.ssl.decorrelation import (
    barlow_twins,
    covariance_penalty,
    mixed_barlow_twins,
    variance_hinge,
    vicreg,
)
from hub.ssl.decoupled import dcl, dclw
from hub.ssl.deep_cluster import DeepClusterV2, spherical_kmeans
from hub.ssl.dino import Centre, dino, masked_patch_distillation
from hub.ssl.direct_prediction import DirectPredictor
from hub.ssl.discrete_targets import CodePredictionHead, code_logits, code_prediction
from hub.ssl.distillation import byol, negative_cosine, simsiam
from hub.ssl.hard_negatives import mix_hard_negatives
from hub.ssl.individual_temperatures import IndividualTemperatures
from hub.ssl.masking import (
    NodeMask,
    RandomMask,
    TokenMask,
    gather_tokens,
    mask_from_noise,
    node_mask,
    random_mask,
    token_mask,
)
from hub.ssl.matching import (
    MatchingLoss,
    edge_affinity,
    graph_matching,
    hamming_loss,
    knn_edges,
    vertex_affinity,
)
from hub.ssl.matching_solver import matching_value, solve_matching
from hub.ssl.memory_queue import FeatureQueue, queue_contrastive
from hub.ssl.multitask import (
    WeightedLoss,
    min_norm_weights,
    multiple_gradient_weights,
    weighted_sum,
)
from hub.ssl.prediction import JEPAMask, RegularisationTokens, jepa_mask, latent_prediction
from hub.ssl.quantization import (
    Codebook,
    Quantized,
    nearest_code,
    residual_decode,
    residual_encode,
)
from hub.ssl.reconstruction import (
    masked_l1,
    masked_mse,
    masked_patch_mse,
    patchify,
    scaled_cosine_error,
    unpatchify,
)
from hub.ssl.self_patch import (
    NeighbourAggregation,
    patch_neighbours,
    self_patch,
    similar_neighbours,
)
from hub.ssl.similarity_contrastive import similarity_contrastive
from hub.ssl.sorting import groco, soft_sort_permutation
from hub.ssl.span_masking import span_mask
from hub.ssl.spreading import koleo, lejepa, sigreg
from hub.ssl.teacher import EMATeacher, cosine_momentum, linear_momentum

__all__ = [
    "BlockCorruption",
    "Centre",
    "CodePredictionHead",
    "Codebook",
    "DeepClusterV2",
    "DirectPredictor",
    "EMATeacher",
    "FeatureQueue",
    "IndividualTemperatures",
    "JEPAMask",
    "MatchingLoss",
    "NeighbourAggregation",
    "NodeMask",
    "Prototypes",
    "Quantized",
    "RandomMask",
    "RegularisationTokens",
    "TokenMask",
    "WeightedLoss",
    "barlow_twins",
    "block_mask",
    "byol",
    "cacr",
    "cacr_attraction",
    "cacr_repulsion",
    "code_logits",
    "code_prediction",
    "corrupt_blocks",
    "cosine_momentum",
    "covariance_penalty",
    "dcl",
    "dclw",
    "dino",
    "edge_affinity",
    "gather_tokens",
    "graph_matching",
    "groco",
    "hamming_loss",
    "info_nce",
    "jepa_mask",
    "knn_edges",
    "koleo",
    "latent_prediction",
    "lejepa",
    "linear_momentum",
    "mask_from_noise",
    "masked_l1",
    "masked_mse",
    "masked_patch_distillation",
    "masked_patch_mse",
    "matching_value",
    "min_norm_weights",
    "mix_hard_negatives",
    "mixed_barlow_twins",
    "moco_v3",
    "multi_view_contrastive",
    "multiple_gradient_weights",
    "nearest_code",
    "negative_cosine",
    "node_mask",
    "nt_xent",
    "patch_neighbours",
    "patchify",
    "queue_contrastive",
    "random_mask",
    "residual_decode",
    "residual_encode",
    "scaled_cosine_error",
    "self_patch",
    "sigreg",
    "similar_neighbours",
    "similarity_contrastive",
    "simsiam",
    "sinkhorn",
    "soft_sort_permutation",
    "solve_matching",
    "span_mask",
    "spherical_kmeans",
    "swav",
    "token_mask",
    "unpatchify",
    "variance_hinge",
    "vertex_affinity",
    "vicreg",
    "weighted_sum",
]

"""Golden case of frame projections: contrasts of three embeddings, and the mappers; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.objectives.frames import FrameProjections, Mapper

Compare = Callable[..., None]
CLOSE = {"atol": 1e-5}


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor from the recorded embeddings and the mappers' weights."""
    settings = json.loads((folder / "config.json").read_text())
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    objective = FrameProjections(
        EEGFormerConfig(projection_size=settings["dim"], temperature=settings["temperature"], objective="frames")
    )
    for ours, theirs in (("to_fourier", "predictor_FT"), ("to_wavelet", "predictor_cwt")):
        mapper = Mapper(settings["mapper_hidden"])
        with torch.no_grad():
            for layer, name in ((mapper.down, "conv1"), (mapper.up, "deconv")):
                layer.weight.copy_(weights[f"{theirs}.{name}.weight"])
                layer.bias.copy_(weights[f"{theirs}.{name}.bias"])
        setattr(objective, ours, mapper)
    with torch.no_grad():
        unit = F.normalize(io["time"], dim=-1)
        compare("mapped_fourier", objective.to_fourier(unit), io["mapped_fourier"], **CLOSE)
        compare("mapped_wavelet", objective.to_wavelet(unit), io["mapped_wavelet"], **CLOSE)
        terms = objective.losses(io["time"], io["fourier"], io["wavelet"])
    for ours, theirs in (
        ("contrast_fourier", "contrastive_time_fourier"),
        ("contrast_wavelet", "contrastive_time_wavelet"),
        ("contrast_views", "contrastive_wavelet_fourier"),
        ("map_fourier", "map_loss_fourier"),
        ("map_wavelet", "map_loss_wavelet"),
    ):
        compare(theirs, terms[ours][None], io[theirs], **CLOSE)
    compare("loss", torch.stack(list(terms.values())).sum()[None], io["loss"], **CLOSE)

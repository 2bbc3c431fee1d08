"""Fixtures of the EEGFormer tests: recordings with known content, small models, and their processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.modeling import EEGFormerModel
from domains.eeg.eegformer.processing import EEGFormerProcessor
from domains.eeg.recording import Recording
from hub.reading import Sample

FRAMES = {
    "window_seconds": 4.0,
    "spectrum": "log_amplitude",
    "fft_scope": "frame",
    "frame_seconds": 1.0,
    "frame_stride_seconds": 0.5,
    "taper": "hann",
    "freq_min": 1.0,
    "freq_max": 45.0,
    "token_axis": "time",
}
SIZES = {
    "patch_size": 45,
    "max_tokens": 7,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_decoder_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "codebook_size": 12,
    "hidden_dropout_prob": 0.0,
    "norm_first": True,
    "final_norm": True,
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def processor() -> EEGFormerProcessor:
    return EEGFormerProcessor(**FRAMES)


@pytest.fixture
def build():
    def model(**changes: Any) -> EEGFormerModel:
        torch.manual_seed(0)
        return EEGFormerModel(EEGFormerConfig(**{**SIZES, **changes})).eval()

    return model


@pytest.fixture
def record():
    def sample(
        channels: list[str], seconds: float = 4.0, seed: int = 0, rate: float = 250.0, tone: float = 0.0
    ) -> Sample:
        """White noise of 10 uV on every channel, and a tone of 20 uV where a frequency is given."""
        samples = round(seconds * rate)
        signal = np.random.default_rng(seed).normal(size=(len(channels), samples)) * 1e-5
        if tone:
            signal += 2e-5 * np.sin(2 * np.pi * tone * np.arange(samples) / rate)
        return Sample(Recording(signal, rate, channels, channels, ["eeg"] * len(channels)))

    return sample

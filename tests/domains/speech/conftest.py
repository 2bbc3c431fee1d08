"""Fixtures of the speech tests: waveforms, a small TERA, and its processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import domains.speech  # registers the Auto classes
from domains.speech.reading import Waveform
from domains.speech.samples import CHILD, HIGH, LOW, say
from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.modeling import TeraModel
from domains.speech.tera.pretraining import TeraForPreTraining
from domains.speech.tera.processing import TeraProcessor
from hub.reading import Sample

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def voices() -> list[np.ndarray]:
    """Three synthetic utterances at 16 kHz of 0.74, 1.76 and 0.4 s, in a room that is not perfectly silent."""
    random = np.random.default_rng(0)
    spoken = [say(LOW, "ai"), say(HIGH, "aeiou"), say(CHILD, "o")]
    return [v + random.normal(0, 0.003, len(v)).astype(np.float32) for v in spoken]


@pytest.fixture(scope="session")
def samples(voices) -> list[Sample]:
    return [Sample(Waveform(v, 16_000)) for v in voices]


@pytest.fixture
def config() -> TeraConfig:
    return TeraConfig(**SMALL)


@pytest.fixture
def processor() -> TeraProcessor:
    return TeraProcessor()


def shake(model: torch.nn.Module, seed: int = 0) -> None:
    """Redraw every parameter, so that each one matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.12 * noise)


@pytest.fixture
def model(config) -> TeraModel:
    model = TeraModel(config).eval()
    shake(model)
    return model


@pytest.fixture
def pretext(config) -> TeraForPreTraining:
    model = TeraForPreTraining(config).eval()
    shake(model)
    return model


@pytest.fixture
def shaken():
    return shake


__all__ = ["domains"]

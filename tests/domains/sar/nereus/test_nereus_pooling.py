"""The pooling that keeps the place of things in an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hub
from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.modeling import NereusModel
from domains.sar.nereus.processing import NereusProcessor
from domains.sar.raster import Raster
from hub.errors import UnsupportedOption
from hub.publishing import save_checkpoint
from hub.reading import Sample

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
VIT = {
    "backbone": "vit",
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.mark.parametrize("sizes", [RESNET, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("side", [32, 64, 88])
def test_the_grid_is_the_mean_of_each_of_its_sixteen_parts(sizes: dict, side: int) -> None:
    torch.manual_seed(0)
    model = NereusModel(NereusConfig(**sizes, pooling="grid")).eval()
    batch = {"pixel_values": torch.randn(2, 1, side, side)}
    vectors = torch.stack(model.embed(batch))
    assert vectors.shape == (2, model.embedding_dimension()) == (2, 16 * model.config.hidden_size)
    with torch.no_grad():
        cells = model.grid(model(**batch).last_hidden_state, side, side)
    parts = vectors.unflatten(1, (-1, 4, 4))
    count = cells.shape[2]
    for row in range(4):
        for column in range(4):
            # Where the cells are no multiple of four, neighbouring parts share the one between them.
            rows, columns = (slice(count * i // 4, -(-count * (i + 1) // 4)) for i in (row, column))
            torch.testing.assert_close(parts[:, :, row, column], cells[:, :, rows, columns].mean((2, 3)))


def test_the_grid_knows_where_a_target_is_and_the_mean_does_not(tmp_path) -> None:
    torch.manual_seed(0)
    save_checkpoint(
        tmp_path, NereusModel(NereusConfig(**RESNET)), NereusProcessor(64, -10.0, 8.0, (-20.0, 25.0), "image")
    )
    embedder = hub.from_pretrained(tmp_path)
    images = []
    for row in (16, 32):
        chip = np.random.default_rng(0).gamma(4, 0.25, (64, 64)).astype(np.float32)
        chip[row : row + 8, 16:24] *= 100
        images.append(Sample(Raster.from_array(chip, "intensity")))
    near = {}
    for pooling in ("mean", "grid"):
        a, b = embedder.embed(images, pooling=pooling).vectors
        near[pooling] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    # Moved by whole cells of the network, the mean hardly changes.
    assert near["mean"] > 0.99 and near["grid"] < near["mean"] - 0.02


def test_images_that_are_not_square_have_no_grid() -> None:
    model = NereusModel(NereusConfig(**RESNET)).eval()
    with pytest.raises(UnsupportedOption, match="square"):
        model.embed({"pixel_values": torch.randn(1, 1, 64, 32)}, pooling="grid")

"""Published layouts with random weights: torchvision's ResNet, Segment Anything's ViT, and files that are neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18, resnet50
from transformers import SamVisionConfig, SamVisionModel

import hub
from domains.medical.image import MedicalImage
from domains.medical.lvm_med.configuration import LVMMedConfig
from domains.medical.lvm_med.conversion import convert
from domains.medical.lvm_med.modeling import LVMMedModel
from hub.domain import get_system
from hub.errors import InvalidCheckpoint
from hub.reading import Sample

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "output_channels": 16, "use_abs_pos": False}
OFFICIAL = {
    "patch_embed.projection.": "patch_embed.proj.",
    "layers.": "blocks.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
    "neck.conv1.": "neck.0.",
    "neck.layer_norm1.": "neck.1.",
    "neck.conv2.": "neck.2.",
    "neck.layer_norm2.": "neck.3.",
}


def picture(size: int) -> Sample:
    values = np.random.default_rng(0).random((1, 1, size, size), dtype=np.float32)
    return Sample(MedicalImage(values))


def sam(image_size: int, window: int, whole: tuple[int, ...]) -> SamVisionModel:
    torch.manual_seed(0)
    config = SamVisionConfig(
        **VIT, image_size=image_size, window_size=window, global_attn_indexes=whole, initializer_range=0.2
    )
    model = SamVisionModel(config).eval()
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def official_names(model: SamVisionModel) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in model.vision_encoder.state_dict().items():
        # The neck's own names come first: its norms are called as the layers' are.
        for ours, theirs in sorted(OFFICIAL.items(), key=lambda pair: not pair[0].startswith("neck")):
            name = name.replace(ours, theirs)
        renamed[name] = tensor.clone()
    return renamed


@pytest.mark.parametrize("with_classifier", [True, False])
def test_a_resnet_under_torchvisions_names_gives_torchvisions_maps(tmp_path: Path, with_classifier: bool) -> None:
    torch.manual_seed(0)
    original = resnet50(num_classes=7).eval()
    weights = original.state_dict()
    assert len(weights) == 320
    if not with_classifier:
        weights = {name: t for name, t in weights.items() if not name.startswith("fc.")}
    torch.save(weights, tmp_path / "lvmmed_resnet.torch")
    facts = convert(tmp_path / "lvmmed_resnet.torch", tmp_path / "ours", size=64)
    assert facts["architecture"] == "resnet50" and "NC-ND" in facts["licence"]
    embedder = hub.from_pretrained(tmp_path / "ours")
    assert len(embedder.model.state_dict()) == 318 and embedder.model.config.hidden_size == 2048
    sample = picture(64)
    pixels = embedder.processor(sample)["pixel_values"]
    original.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = original(pixels)[0]
    torch.testing.assert_close(torch.tensor(embedder.embed(sample).vectors[0]), expected, atol=1e-5, rtol=1e-5)
    assert embedder.embed(sample, pooling="none")[0].shape == (4, 2048)


def test_a_vit_gives_the_states_and_the_neck_of_transformers(tmp_path: Path) -> None:
    original = sam(96, window=3, whole=(1,))
    weights = {f"model.{name}": t for name, t in official_names(original).items()}
    torch.save(weights, tmp_path / "lvmmed_vit.pth")
    convert(tmp_path / "lvmmed_vit.pth", tmp_path / "ours", size=96)
    embedder = hub.from_pretrained(tmp_path / "ours")
    pixels = embedder.processor(picture(96))["pixel_values"]
    with torch.no_grad():
        expected = original(pixels, output_hidden_states=True)
        states = embedder.model(pixels).last_hidden_state
        neck = embedder.model.vit.neck(states.unflatten(1, (6, 6)))
    assert embedder.model.config.global_layers == [1] and embedder.model.config.window_size == 3
    torch.testing.assert_close(neck, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states, expected.hidden_states[-1].flatten(1, 2), atol=1e-5, rtol=1e-5)
    vector = torch.tensor(embedder.embed(picture(96)).vectors[0])
    torch.testing.assert_close(vector, states[0].mean(0), atol=1e-5, rtol=1e-5)


def test_a_vit_at_another_size_interpolates_its_tables_once_and_for_all(tmp_path: Path) -> None:
    """As the official class does at each call, here for 64 x 64 patches seen at 4 x 4."""
    original = sam(1024, window=4, whole=(0, 2))
    torch.save(official_names(original), tmp_path / "vit.pth")
    convert(tmp_path / "vit.pth", tmp_path / "ours", size=64)
    model = hub.from_pretrained(tmp_path / "ours").model
    assert model.vit.layers[0].attn.rel_pos_h.shape == (7, 8)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        states = original.vision_encoder.patch_embed.projection(pixels).permute(0, 2, 3, 1)
        for layer in original.vision_encoder.layers:  # these interpolate as they are called
            states = layer(states)
        torch.testing.assert_close(model(pixels).last_hidden_state, states.flatten(1, 2), atol=1e-5, rtol=1e-5)


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        vit = LVMMedModel(LVMMedConfig(arch="sam_vit", image_size=1024))
        resnet = LVMMedModel(LVMMedConfig())
    assert len(vit.state_dict()) == 176 and sum(p.numel() for p in vit.parameters()) == 86_525_184
    assert vit.vit.layers[2].attn.rel_pos_h.shape == (127, 64) and vit.vit.layers[0].attn.rel_pos_h.shape == (27, 64)
    assert len(resnet.state_dict()) == 318 and sum(p.numel() for p in resnet.parameters()) == 23_508_032


def test_the_system_is_known_with_a_hyphen_too() -> None:
    assert get_system("lvm-med") is get_system("lvm_med")


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    def refused(content: object, match: str) -> None:
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(InvalidCheckpoint, match=match):
            convert(tmp_path / "file.pth", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    small = resnet18().state_dict()
    tensor = torch.zeros(1)
    refused({"mask_tokens.weight": tensor, "transformer.layers.0.norm1.weight": tensor}, "mask decoder of Segment")
    refused({"image_encoder.patch_embed.proj.weight": tensor}, "whole Segment Anything model")
    sam_own = {**official_names(sam(64, 4, (1,))), "pos_embed": torch.zeros(1, 4, 4, 32)}
    refused(sam_own, "absolute positions")
    refused({"module.backbone.model_down.layers.0.blocks.0.norm1.weight": tensor}, "Alice")
    refused({"student": {"x": tensor}, "teacher": {"x": tensor}, "epoch": 3}, "dictionary of epoch, student, teacher")
    refused({"weight": tensor}, "neither conv1.weight nor patch_embed.proj.weight .* weight")
    refused({k: v for k, v in small.items() if "layer3.1" not in k}, r"stages of \[2, 2, 1, 2\] basic blocks")
    lacking = {k: v for k, v in small.items() if k != "layer2.0.downsample.0.weight"}
    refused(lacking, r"Missing: resnet\.layer2\.0\.downsample\.0\.weight")
    refused({k: v for k, v in official_names(sam(64, 4, (1,))).items() if "rel_pos" not in k}, "relative positions")
    (tmp_path / "file.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InvalidCheckpoint):
        convert(tmp_path / "file.pth", tmp_path / "out")

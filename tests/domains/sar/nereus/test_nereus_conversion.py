"""Published layouts, as transformers writes them: backbones, heads, and ViTs of both generations of names."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, ViTConfig, ViTModel

import hub
from domains.sar.nereus.conversion import config_from_weights, convert
from domains.sar.nereus.weights import from_published
from domains.sar.raster import Raster
from hub.errors import InvalidCheckpoint
from hub.reading import Sample

RESNET = {"num_channels": 1, "embedding_size": 8, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 2, 1, 1]}
SCALE = {"size": 64, "mean": "-2.5", "std": "5.6", "low": "-30", "high": "30", "reference": "image"}


def test_a_published_resnet_gives_its_own_embedding(tmp_path) -> None:
    torch.manual_seed(0)
    original = ResNetModel(ResNetConfig(**RESNET)).eval()
    original.save_pretrained(tmp_path / "published")
    facts = convert(tmp_path / "published" / "model.safetensors", tmp_path / "ours", **SCALE)
    assert facts["backbone"] == "resnet" and facts["parameters"] == original.num_parameters()
    embedder = hub.from_pretrained(tmp_path / "ours")
    image = Sample(Raster.from_array(torch.randn(64, 64).exp().numpy()))
    with torch.no_grad():
        expected = original(embedder.processor(image)["pixel_values"]).pooler_output[0, :, 0, 0]
    torch.testing.assert_close(torch.tensor(embedder.embed(image).vectors[0]), expected, atol=1e-5, rtol=1e-4)


def test_the_size_of_the_published_model_is_that_of_a_single_channel_resnet50() -> None:
    from domains.sar.nereus.configuration import NereusConfig
    from domains.sar.nereus.modeling import NereusModel

    with torch.device("meta"):
        model = NereusModel(NereusConfig())
    assert len(model.state_dict()) == 318 and model.config.hidden_size == 2048
    assert sum(p.numel() for p in model.parameters()) == 23_501_760
    assert config_from_weights(model.state_dict(), {}, "x").to_dict() == NereusConfig().to_dict()


def test_a_published_head_answers_as_it_did(tmp_path) -> None:
    torch.manual_seed(0)
    original = ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=1)).eval()
    original.save_pretrained(tmp_path / "wave")
    facts = convert(tmp_path / "wave" / "model.safetensors", tmp_path / "ours", **SCALE, label="wave_height_m")
    assert facts["head"] == "regression of wave_height_m"
    embedder = hub.from_pretrained(tmp_path / "ours")
    image = Sample(Raster.from_array(torch.randn(64, 64).exp().numpy()))
    with torch.no_grad():
        expected = float(original(embedder.processor(image)["pixel_values"]).logits)
    assert embedder.run("regress", [image])[0]["values"]["wave_height_m"] == pytest.approx(expected, abs=1e-5)


def test_vits_of_either_generation_of_names_load(tmp_path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    original = ViTModel(ViTConfig(num_channels=1, image_size=32, patch_size=8, layer_norm_eps=1e-6, **sizes)).eval()
    original.save_pretrained(tmp_path / "new")
    weights = {name: t.clone() for name, t in original.state_dict().items()}
    older = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed = {}
    for name, tensor in weights.items():
        for new, old in older.items():
            name = name.replace(new, old)
        renamed[name.replace("layers.", "encoder.layer.", 1)] = tensor
    assert not {n for n in renamed if n.startswith("layers.")}
    (tmp_path / "old").mkdir()
    save_file(renamed, tmp_path / "old" / "model.safetensors")
    (tmp_path / "old" / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = original(image).last_hidden_state
    for name in ("new", "old"):
        convert(tmp_path / name / "model.safetensors", tmp_path / f"ours-{name}", **{**SCALE, "size": 32})
        model = hub.from_pretrained(tmp_path / f"ours-{name}").model
        with torch.no_grad():
            torch.testing.assert_close(model(image).last_hidden_state, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            torch.stack(model.embed({"pixel_values": image})), expected[:, 0], atol=1e-5, rtol=1e-4
        )


def test_without_a_normalisation_nothing_can_be_embedded(tmp_path) -> None:
    """None is published, and none is guessed: evaluation under a wrong one would say nothing."""
    ResNetModel(ResNetConfig(**RESNET)).save_pretrained(tmp_path / "published")
    facts = convert(tmp_path / "published" / "model.safetensors", tmp_path / "ours")
    assert "normalisation" in facts["note"]
    with pytest.raises(InvalidCheckpoint):
        hub.from_pretrained(tmp_path / "ours")


def test_other_files_are_refused_with_the_names(tmp_path) -> None:
    ResNetModel(ResNetConfig(**RESNET)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lacking = {k: v for k, v in weights.items() if "stages.2.layers.0.shortcut" not in k}
    save_file(lacking, file)
    with pytest.raises(InvalidCheckpoint, match=r"Missing: resnet\.encoder\.stages\.2\.layers\.0\.shortcut"):
        convert(file, tmp_path / "out")
    save_file({"conv.weight": torch.zeros(1)}, file)
    with pytest.raises(InvalidCheckpoint, match=r"no resnet\.embedder"):
        convert(file, tmp_path / "out")
    file.write_bytes(b"not a safetensors file")
    with pytest.raises(InvalidCheckpoint, match="no checkpoint file"):
        convert(file, tmp_path / "out")
    assert from_published({"pooler.weight": torch.zeros(1), "x": torch.zeros(1)}).keys() == {"resnet.x"}

"""Files as Alice's training code and the users of MONAI's Swin leave them, with random weights; none is run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor

import hub
from domains.medical.alice.configuration import AliceConfig
from domains.medical.alice.conversion import convert
from domains.medical.alice.modeling import AliceModel
from hub.conversion import convert_checkpoint
from hub.errors import InvalidCheckpoint

NNFORMER = {"roi": [32] * 3, "embed_dim": 12, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 4, 4]}
NNFORMER |= {"window_size": [4, 4, 4, 2], "position_table": "zeros"}


@pytest.fixture(scope="module")
def encoder() -> AliceModel:
    torch.manual_seed(3)
    return AliceModel(AliceConfig(**NNFORMER)).eval()


@pytest.fixture(scope="module")
def swin() -> SwinUNETR:
    torch.manual_seed(4)
    sizes = {"depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}
    return SwinUNETR(in_channels=1, out_channels=3, feature_size=12, **sizes).eval()


def published(encoder: AliceModel, prefix: str) -> dict[str, Tensor]:
    """Return an encoder as the published code names it, with what else stands there."""
    names = {f"{prefix}model_down.{k}": v for k, v in encoder.encoder.state_dict().items() if "absolute" not in k}
    names[f"{prefix}model_down.mask_token"] = torch.zeros(1, 1, 12)
    names[f"{prefix}model_down.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(64, 64, dtype=torch.long)
    names[f"{prefix}decoder.layers.0.blocks.0.norm1.weight"] = torch.ones(12)
    return names


def scrambled(model: AliceModel) -> dict[str, Tensor]:
    return {k: torch.randn_like(v) for k, v in model.encoder.state_dict().items()}


def agrees(folder: Path, expected: AliceModel, roi: int = 32) -> None:
    volumes = torch.rand(2, 1, roi, roi, roi)
    loaded = AliceModel.from_pretrained(folder).eval()
    for ours, theirs in zip(loaded.pyramid(volumes), expected.pyramid(volumes), strict=True):
        assert torch.equal(ours, theirs)


def test_a_training_file_gives_teacher_or_student(encoder: AliceModel, tmp_path: Path) -> None:
    other = AliceModel(AliceConfig(**NNFORMER)).eval()
    file = tmp_path / "checkpoint.pth"
    content = {
        "student": {**published(other, "module.backbone."), "module.head.mlp.0.weight": torch.ones(3, 3)},
        "teacher": {**published(encoder, "backbone."), "head.mlp.0.weight": torch.ones(3, 3)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "epoch": 7,
        "args": argparse.Namespace(roi_x=32, lr=5e-5, arch="nnformer"),
        "alice_loss": {"center": torch.zeros(1, 512)},
    }
    torch.save(content, file)
    facts = convert(file, tmp_path / "teacher", roi=32)
    agrees(tmp_path / "teacher", encoder)
    assert facts["backbone"] == "nnformer" and facts["position_table"] == "none: zeros"
    assert "head.mlp.0.weight" in facts["left_out"]
    convert(file, tmp_path / "student", roi=32, network="student")
    agrees(tmp_path / "student", other)
    embedder = hub.from_pretrained(tmp_path / "teacher")
    assert embedder.processor.ct_window == [50.0, 350.0] and embedder.processor.modality == "CT"
    with pytest.raises(InvalidCheckpoint, match="teacher, student"):
        convert(file, tmp_path / "x", network="pupil")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda names: {**{k: v for k, v in names.items() if "final" not in k}, "state_dict": {}, "epoch": 3},
        lambda names: {"state_dict": names, "epoch": 3},
    ],
    ids=["beside an empty entry", "inside the entry"],
)
def test_both_forms_of_extracted_backbones_load(encoder: AliceModel, tmp_path: Path, wrap) -> None:
    file = tmp_path / "backbone.pth"
    torch.save(wrap(published(encoder, "backbone.")), file)
    convert(file, tmp_path / "out", roi=32)
    agrees(tmp_path / "out", encoder)


def test_a_position_table_is_taken_from_the_file_or_from_one_beside_it(encoder: AliceModel, tmp_path: Path) -> None:
    table = torch.randn(1, 16**3, 12)
    expected = AliceModel(encoder.config).eval()
    expected.load_state_dict({**encoder.state_dict(), "encoder.absolute_pos_embed": table})
    names = published(encoder, "")
    torch.save({**names, "model_down.absolute_pos_embed": table}, tmp_path / "with.pth")
    facts = convert(tmp_path / "with.pth", tmp_path / "a")
    assert facts["position_table"] == "from the file"
    agrees(tmp_path / "a", expected)
    torch.save(names, tmp_path / "without.pth")
    torch.save({"table": table}, tmp_path / "table.pth")
    convert(tmp_path / "without.pth", tmp_path / "b", table=str(tmp_path / "table.pth"))
    agrees(tmp_path / "b", expected)


def linear_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.replace("mlp.linear1", "mlp.fc1").replace("mlp.linear2", "mlp.fc2"): v for k, v in weights.items()}


LAYOUTS = {
    "SwinUNETR, state_dict": lambda net: {"state_dict": net.state_dict()},
    "MONAI SSL, no prefix but module": lambda net: {
        "state_dict": {
            **{f"module.{k}": v for k, v in linear_names(net.swinViT.state_dict()).items()},
            "module.norm.weight": torch.ones(192),
            "module.rotation_head.weight": torch.ones(4, 192),
        }
    },
    "swin_vit": lambda net: {f"module.swin_vit.{k}": v for k, v in net.swinViT.state_dict().items()},
    "VoCo, network_weights": lambda net: {"network_weights": net.state_dict(), "trainer": "x"},
    "SuPreM, net": lambda net: {"net": {f"module.backbone.{k}": v for k, v in net.state_dict().items()}, "epoch": 1},
    "without the buffers": lambda net: {
        k: v for k, v in net.swinViT.state_dict().items() if not k.endswith("relative_position_index")
    },
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_swin_under_any_name_gives_monais_own_maps(swin: SwinUNETR, tmp_path: Path, layout: str) -> None:
    file = tmp_path / "swin.pt"
    torch.save(LAYOUTS[layout](swin), file)
    facts = convert(file, tmp_path / "out", roi=32, low=-175, high=250, spacing="1.5")
    assert facts["backbone"] == "swin_unetr"
    volumes = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = swin.swinViT(volumes, normalize=True)
        ours = AliceModel.from_pretrained(tmp_path / "out").eval().pyramid(volumes)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    processor = hub.from_pretrained(tmp_path / "out").processor
    assert processor.spacing == [1.5, 1.5, 1.5] and processor.ct_window == [37.5, 425.0]
    held = any(word in str(facts.get("left_out", "")) for word in ("decoder", "encoder1", "rotation_head"))
    assert held == (layout not in ("swin_vit", "without the buffers"))


def test_a_second_generation_swin_is_known_by_its_convolutions(tmp_path: Path) -> None:
    net = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4, use_v2=True)
    torch.save(net.state_dict(), tmp_path / "voco.pt")
    convert(tmp_path / "voco.pt", tmp_path / "out", roi=32)
    model = AliceModel.from_pretrained(tmp_path / "out").eval()
    assert model.config.use_v2
    volumes = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(model.pyramid(volumes), net.eval().swinViT(volumes), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_without_a_range_of_hounsfield_units_there_is_no_processor(swin: SwinUNETR, tmp_path: Path) -> None:
    torch.save(swin.state_dict(), tmp_path / "swin.pt")
    card = convert_checkpoint("alice", tmp_path / "swin.pt", tmp_path / "out", options={"roi": 32})
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()
    assert (
        "low and high" in (tmp_path / "out" / "README.md").read_text() and card.metadata["fmhub"]["system"] == "alice"
    )


def test_wrong_files_are_refused_by_name(encoder: AliceModel, swin: SwinUNETR, tmp_path: Path) -> None:
    def refused(content: object, said: str, **options) -> None:
        torch.save(content, tmp_path / "wrong.pth")
        with pytest.raises(InvalidCheckpoint, match=said):
            convert(tmp_path / "wrong.pth", tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    refused({"conv1.weight": torch.ones(64, 3, 7, 7)}, "no layout that is known.*conv1.weight")
    refused({"patch_embed.proj.weight": torch.ones(96, 3, 4, 4)}, "no layout that is known")
    refused({"down_tr64.ops.0.conv1.weight": torch.ones(32, 1, 3, 3, 3)}, "down_tr64")
    refused([1, 2], "list")
    lacking = published(encoder, "")
    del lacking["model_down.layers.1.blocks.0.mlp.fc1.weight"]
    lacking["model_down.layers.1.blocks.0.extra"] = torch.ones(1)
    refused(lacking, r"(?s)Missing: layers.1.blocks.0.mlp.fc1.weight.*Unexpected: layers.1.blocks.0.extra", roi=32)
    four = {**swin.state_dict(), "swinViT.patch_embed.proj.weight": torch.ones(12, 4, 2, 2, 2)}
    refused(four, "4 input channels", roi=32)
    refused({**swin.swinViT.state_dict(), "norm.weight": torch.ones(1)}, "roi", roi=40)
    (tmp_path / "wrong.pth").write_bytes(b"\x80\x02cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InvalidCheckpoint, match=r"wrong\.pth"):
        convert(tmp_path / "wrong.pth", tmp_path / "out")

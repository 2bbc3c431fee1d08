from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hub
from domains.medical.finetune import main, preset, shift_and_stretch
from domains.medical.image import MedicalImage
from domains.medical.samples import phantom
from hub.domain import get_system
from hub.errors import InvalidManifest
from hub.finetuning.run import finetune
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Sample


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lvm") / "start"
    torch.manual_seed(0)
    system = get_system("lvm_med")
    config = system.load("configuration")(arch="resnet18", width=8, depths=[1, 1])
    save_checkpoint(folder, system.load("model")(config), system.load("processor")(size=48))
    write_card(folder, card_metadata(system, license="apache-2.0", name="start"), "# start\n")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures of two kinds, stripes and rings, each of its own width and place."""
    rows, columns = np.mgrid[:48, :48]
    lines = [["file", "label", "split"]]
    for number in range(24):
        random = np.random.default_rng(number)
        phase, width = random.uniform(0, 6), random.uniform(3, 9)
        y, x = random.uniform(16, 32, 2)
        waves = columns if number % 2 else np.hypot(rows - y, columns - x)
        values = 0.5 + 0.4 * np.sin(waves / width * 3 + phase) + random.normal(0, 0.05, rows.shape)
        Image.fromarray((255 * values.clip(0, 1)).astype(np.uint8)).save(tmp_path / f"{number}.png")
        part = "test" if number >= 18 else "valid" if number >= 14 else "train"
        lines.append([f"{number}.png", "stripes" if number % 2 else "rings", part])
    with (tmp_path / "set.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    return tmp_path / "set.csv"


def test_kinds_of_pictures_are_learnt_and_served(start: Path, pictures: Path, tmp_path: Path) -> None:
    outcome = finetune(start, pictures, tmp_path / "out", {"task": "classification", "epochs": 30, "valid_share": 0.2})
    assert outcome.test["accuracy"] >= 4 / 6
    answers = hub.from_pretrained(tmp_path / "out").run("classify", [pictures.parent / "0.png"])
    assert set(answers[0]["scores"]) == {"rings", "stripes"}


def test_a_copy_on_the_other_side_is_refused_by_the_script(
    start: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open(tmp_path / "1.png").resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / "copy.jpg", quality=70)
    with pictures.open("a", newline="") as stream:
        csv.writer(stream).writerow(["copy.jpg", "stripes", "test"])
    arguments = ["run", str(start), "--manifest", str(pictures), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"rows 2 \(train\) and 25 \(test\).*--leaky-split"):
        main([*arguments, "--task", "classification"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidManifest, match="near-duplicate"):
        finetune(start, pictures, tmp_path / "out", {"task": "classification"})


def test_augmentation_moves_and_stretches_and_never_mirrors() -> None:
    head = phantom(24, 40, 60, 0)
    sample = Sample(MedicalImage(1000 * head[None], modality="CT"), key="a")
    seen = [shift_and_stretch(sample, torch.Generator().manual_seed(seed)).data.values for seed in range(8)]
    again = shift_and_stretch(sample, torch.Generator().manual_seed(0)).data
    assert np.array_equal(again.values, seen[0])
    assert again.modality == "CT"
    mirrored = 1000 * head[None, :, :, ::-1]
    for values in seen:
        assert values.shape == sample.data.values.shape
        assert values.dtype == np.float32
        assert not np.array_equal(values, sample.data.values)
        nearness = [np.corrcoef(values.ravel(), other.ravel())[0, 1] for other in (sample.data.values, mirrored)]
        assert nearness[0] > nearness[1]
        ratio = np.ptp(values) / np.ptp(sample.data.values)
        assert 0.85 < ratio < 1.15
    single = shift_and_stretch(Sample(MedicalImage(head[None, :1])), torch.Generator().manual_seed(1))
    assert single.data.values.shape == (1, 1, 40, 60)


def test_the_preset_names_options_that_exist() -> None:
    from hub.finetuning.options import FinetuneOptions

    for mode in ("frozen", "full", "layerwise", "lora"):
        FinetuneOptions.for_mode("classification", mode, preset())

"""Learning to segment: a decoder on an encoder of this domain, from images and masks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor

from domains.medical.segmentation.grids import Grid, grid_of
from domains.medical.segmentation.labelled import Case, labelled_rows, read_cases
from domains.medical.segmentation.model import PREFIX, SECTION, SegmentationSpec, SegmentingModel
from domains.medical.segmentation.scoring import Scores
from hub.embedder import load_part
from hub.errors import InvalidInput, UnsupportedOption
from hub.finetuning.run import Start
from hub.publishing import card_metadata, save_checkpoint, write_card

MODES = ("frozen", "full")
BRIGHTNESS, CONTRAST, NOISE = 0.1, 0.1, 0.03
"""Most that training views are brightened, stretched, and the standard deviation of noise added to them."""
WARMUP = 0.1


@dataclass(frozen=True)
class Training:
    """How to train: AdamW on random views, warmed up, then falling to 0 by a half cosine.

    Attributes:
        mode: ``frozen`` (the decoder alone) or ``full``.
        steps: Optimiser steps.
        batch_size: Slices or windows in a batch.
        learning_rate: Peak, of the decoder.
        encoder_share: The encoder's rate over the decoder's, in mode ``full``.
        width: Channels of the decoder at the image's own resolution.
        cases: Train on so many cases, drawn by the seed; 0 for all.
        seed: Of initialisation, order and views.
    """

    mode: str = "full"
    steps: int = 500
    batch_size: int = 4
    learning_rate: float = 2e-3
    encoder_share: float = 0.3
    width: int = 8
    cases: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UnsupportedOption on a value that cannot be."""
        if self.mode not in MODES:
            raise UnsupportedOption(f"mode {self.mode!r} is none of {', '.join(MODES)}", param="mode")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UnsupportedOption(f"{name} is {getattr(self, name)}; it must be at least 1", param=name)
        if self.width < 4 or self.width % 4:
            raise UnsupportedOption(f"width is {self.width}; it is a multiple of 4", param="width")
        if self.cases < 0:
            raise UnsupportedOption(f"cases is {self.cases}; it is not negative", param="cases")


def train_segmenter(
    model: str | Path,
    manifest: Path,
    output: Path,
    classes: Sequence[str],
    training: Training,
    *,
    fresh: bool = False,
    leaky: bool = False,
    test_share: float = 0.2,
    on_error: Callable[[InvalidInput], None] = lambda error: None,
) -> dict[str, Any]:
    """Train a decoder, as the mode says with its encoder, and write a checkpoint that answers ``segment``.

    Args:
        model: Built-in name, folder or repository of a checkpoint of this domain.
        manifest: See `labelled_rows`; a label is the path of a mask, seen from the manifest.
        output: Folder to write; must not exist or be empty.
        classes: Names of class 0, the background, class 1 and so on.
        training: How.
        fresh: Initialise the encoder anew.
        leaky: Let patients and near-duplicates be on two sides of the split.
        test_share: Share of the patients that are held out where the manifest has no split.
        on_error: Called with each image or mask that cannot be used.

    Returns:
        ``dice`` and ``hd95`` by class on the test part, and how it was reached.

    Raises:
        InvalidManifest: The set cannot be read or split, or leaks.
        UnsupportedOption: An option cannot be, or the folder is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise UnsupportedOption(f"{output} is not empty; give a new folder", param="output_dir")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UnsupportedOption("classes: name the background and at least one more, all different", param="classes")
    start = Start.find(model)
    started = time.monotonic()
    torch.manual_seed(training.seed)
    encoder = encoder_of(start, fresh)
    grid = grid_of(3 if hasattr(encoder.config, "roi") else 2)
    rows = labelled_rows(manifest, start.processor, test_share, leaky, training.seed)
    parts = {name: [row for row in rows if row.split == name] for name in ("train", "test")}
    if training.cases:
        order = torch.randperm(len(parts["train"]), generator=torch.Generator().manual_seed(training.seed))
        parts["train"] = [parts["train"][i] for i in sorted(order[: training.cases].tolist())]
    train, test = (
        read_cases(parts[name], start.processor, grid, manifest.parent, len(classes), on_error)
        for name in ("train", "test")
    )
    tuned = with_decoder(encoder, train[0], grid, classes, training.width)
    losses = fit(tuned, train, grid, training, fresh)
    results = {
        **measure(tuned, test, grid, classes),
        "model": start.name,
        "fresh": fresh,
        "manifest": manifest.name,
        "training": asdict(training),
        "classes": list(classes),
        "rows": {"train": len(train), "test": len(test)},
        "seconds": time.monotonic() - started,
    }
    save_checkpoint(output, tuned, start.processor)
    (output / "segmentation.json").write_text(json.dumps({**results, "losses": losses}, indent=1), encoding="utf-8")
    license = str(start.card.metadata.get("license", "other"))
    write_card(output, card_metadata(start.system, license=license, name=output.name), _card(output.name, results))
    return results


def encoder_of(start: Start, fresh: bool) -> SegmentingModel:
    """Return a checkpoint's encoder without a decoder.

    Args:
        start: The checkpoint.
        fresh: Initialise the encoder anew.

    Raises:
        UnsupportedOption: The system's encoder gives no feature maps.
    """
    base = start.system.load("model")
    if not issubclass(base, SegmentingModel):
        raise UnsupportedOption(f"{start.system.title} gives no feature maps to segment from", param="model")
    config = start.system.load("configuration").from_pretrained(start.folder)
    if hasattr(config, SECTION):
        delattr(config, SECTION)
    return base(config) if fresh else load_part(base, start.folder, config=config, dtype=torch.float32)


def with_decoder(
    encoder: SegmentingModel, case: Case, grid: Grid, classes: Sequence[str], width: int
) -> SegmentingModel:
    """Return an encoder with a fresh decoder, on the GPU where there is one.

    Args:
        encoder: Gives the maps.
        case: Any, to see what maps of.
        grid: How the encoder sees it.
        classes: Names, the background first.
        width: Of the decoder.
    """
    view, _ = grid.view(case.feature, case.labels, roi_of(encoder), lambda choices: 0)
    with torch.no_grad():
        widths = [m.shape[1] for m in encoder.eval().pyramid(view[None])]
    config = encoder.config
    setattr(config, SECTION, SegmentationSpec(list(classes), view.ndim - 1, len(view), widths, width).to_dict())
    tuned: Any = type(encoder)(config)
    tuned.load_state_dict(encoder.state_dict(), strict=False)  # all but the decoder
    return tuned.cuda() if torch.cuda.is_available() else tuned


def fit(model: SegmentingModel, cases: Sequence[Case], grid: Grid, training: Training, fresh: bool) -> list[float]:
    """Train a model on cases; it is left in eval mode. Returns the loss of each step."""
    frozen = training.mode == "frozen"
    groups: list[dict[str, Any]] = [{"params": [], "lr": training.learning_rate} for _ in range(2)]
    for name, parameter in model.named_parameters():
        decoding = name.startswith(PREFIX)
        parameter.requires_grad_(decoding or not frozen)
        if parameter.requires_grad:
            groups[0 if decoding else 1]["params"].append(parameter)
    groups[1]["lr"] *= training.encoder_share
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.01)
    rise = max(1, round(WARMUP * training.steps))
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / rise, 1.0, rise),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, training.steps - rise)),
        ],
        [rise],
    )
    loss_of = DiceCELoss(include_background=False, to_onehot_y=False, softmax=True)
    classes = len(model.segmentation.classes)  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(training.seed)
    model.train(not frozen)
    if not fresh:
        # Statistics of a few images would spoil those that batch normalisation brings from pretraining.
        for module in model.modules():
            module.train(module.training and not isinstance(module, torch.nn.modules.batchnorm._BatchNorm))
    losses = []
    for _ in range(training.steps):
        views, labels = _batch(cases, grid, model, training.batch_size, generator)
        logits = model.segment_logits(views.to(model.device))
        truth = torch.nn.functional.one_hot(labels, classes).movedim(-1, 1)
        loss = loss_of(logits, truth.to(logits))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(round(float(loss.detach()), 5))
    model.eval().requires_grad_(True)
    return losses


@torch.inference_mode()
def measure(model: SegmentingModel, cases: Sequence[Case], grid: Grid, classes: Sequence[str]) -> dict[str, Any]:
    """Return ``dice`` and ``hd95`` by class over cases, each on its image's own grid."""
    scores = Scores(classes)
    for case in cases:
        given = grid.probabilities(model, case.feature, case.sample).argmax(0).numpy()
        scores.add(given, case.mask, case.sample.data.spacing or (1.0, 1.0, 1.0))
    return scores.summary()


def _batch(
    cases: Sequence[Case], grid: Grid, model: Any, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    def draw(choices: int) -> int:
        return int(torch.randint(choices, (), generator=generator))

    chosen = [cases[draw(len(cases))] for _ in range(size)]
    pairs = [grid.view(case.feature, case.labels, roi_of(model), draw) for case in chosen]
    views, labels = torch.stack([v for v, _ in pairs]), torch.stack([n for _, n in pairs])
    shape = (size,) + (1,) * (views.ndim - 1)
    stretch = 1 + CONTRAST * (2 * torch.rand(shape, generator=generator) - 1)
    shift = BRIGHTNESS * (2 * torch.rand(shape, generator=generator) - 1)
    return views * stretch + shift + NOISE * torch.randn(views.shape, generator=generator), labels


def roi_of(model: Any) -> tuple[int, ...]:
    """Return the sides of an encoder's windows; nothing for an encoder of slices."""
    return tuple(getattr(model.config, "roi", ()))


def _card(name: str, results: dict[str, Any]) -> str:
    how = "from scratch" if results["fresh"] else results["training"]["mode"]
    figures = "\n".join(
        f"| {metric} | {', '.join(f'{c} {value:.3f}' for c, value in results[metric].items())} |"
        for metric in ("dice", "hd95")
    )
    return (
        f"# {name}\n\n{results['model']}, {how}, trained to segment {', '.join(results['classes'][1:])} on "
        f"{results['rows']['train']} images of `{results['manifest']}`. Test part ({results['rows']['test']} images), "
        f"means over images; distances in millimetres:\n\n| | |\n|---|---|\n{figures}\n"
    )

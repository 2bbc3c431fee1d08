"""Learning the classes of pixels: a decoder on a Nereus encoder, from images and rasters of class numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from torch import Tensor
from torch.nn import functional as F

from domains.sar.formats.gdal import driver_of
from domains.sar.nereus.configuration import NereusConfig
from domains.sar.nereus.modeling import NereusModel
from domains.sar.nereus.processing import NereusProcessor
from hub.errors import InvalidInput, InvalidManifest, UnsupportedOption
from hub.finetuning.run import Start
from hub.manifest import Row, read_manifest
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Source

MODES = ("frozen", "full")
UNKNOWN = -1
"""Class number of pixels that take no part in loss and metrics; any number that names no class is read as this."""
LABEL_DRIVERS = ("GTiff", "PNG")
ENCODER_SHARE = 0.1
"""Rate of the encoder's parameters over the decoder's."""


@dataclass(frozen=True)
class Schedule:
    """How to train: AdamW on random batches of the train part.

    Attributes:
        mode: ``frozen`` (the decoder alone) or ``full``.
        steps: Optimiser steps.
        batch_size: Images in a batch.
        learning_rate: Peak of the decoder's, which falls to 0 by a half cosine; the encoder's is a tenth.
        seed: Of order and initialisation.
    """

    mode: str = "frozen"
    steps: int = 300
    batch_size: int = 8
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UnsupportedOption on a value that cannot be."""
        if self.mode not in MODES:
            raise UnsupportedOption(f"mode {self.mode!r} is none of {', '.join(MODES)}", param="mode")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UnsupportedOption(f"{name} is {getattr(self, name)}; it must be at least 1", param=name)


@dataclass(frozen=True)
class Images:
    """One part of a labelled set, as the model sees it.

    Attributes:
        pixels: ``(images, 1, size, size)``.
        classes: Of each image, ``(rows, columns)`` int64 at its own size; ``UNKNOWN`` where nothing is said.
    """

    pixels: Tensor
    classes: list[Tensor]

    def at_model_size(self) -> Tensor:
        """Return the classes of each of the model's pixels, ``(images, size, size)``: those at their centres."""
        size = self.pixels.shape[2:]
        return torch.stack(
            [F.interpolate(c[None, None].float(), size, mode="nearest-exact")[0, 0].long() for c in self.classes]
        )


def train_segmenter(
    model: str | Path,
    manifest: Path,
    output: Path,
    classes: Sequence[str],
    schedule: Schedule,
    fresh: bool = False,
    size: int = 0,
) -> dict[str, Any]:
    """Train a decoder and write a checkpoint that segments (``segment``).

    Images are resized whole, as they are when the checkpoint is used: cut scenes to tiles of one size before. A centre
    crop that the checkpoint began with is left out of the new one.

    Args:
        model: Built-in name, folder or repository; a checkpoint of Nereus.
        manifest: ``file,label,split``, a label being the path, seen from the manifest, of a raster of class numbers on
            the image's grid.
        output: Folder to write; must not exist or be empty.
        classes: Names of classes 0, 1 and so on.
        schedule: How.
        fresh: Initialise the encoder anew.
        size: Side that images are seen at, pixels; the model's where 0.

    Returns:
        ``accuracy`` and ``iou`` by class on the test part, each pixel of the images' own grids counted once.

    Raises:
        InvalidManifest: The set has no train or test part, or a label is no raster on its image's grid.
        InvalidInput: An image cannot be used.
        UnsupportedOption: The model is no Nereus or cannot see images of that size, or the folder is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise UnsupportedOption(f"{output} is not empty; give a new folder", param="output_dir")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UnsupportedOption(
            f"classes are {', '.join(classes)}; at least two different names are needed", param="classes"
        )
    start = Start.find(model)
    if not isinstance(start.processor, NereusProcessor):
        raise UnsupportedOption("segmentation needs a checkpoint of Nereus", param="model")
    config = start.system.load("configuration").from_pretrained(start.folder)
    processor = of_whole_images(start.processor, config, size)
    rows = read_manifest(manifest, need=("file", "label", "split"))
    parts = {name: [row for row in rows if row.split == name] for name in ("train", "test")}
    if not all(parts.values()):
        raise InvalidManifest(f"{manifest}: segmentation needs rows of the splits train and test")
    images = {name: read_images(part, processor, manifest.parent, len(classes)) for name, part in parts.items()}
    torch.manual_seed(schedule.seed)
    encoder = NereusModel(config) if fresh else NereusModel.from_pretrained(start.folder, dtype=torch.float32)
    config.segments = list(classes)
    tuned = NereusModel(config)
    tuned.load_state_dict(encoder.state_dict(), strict=False)  # all but the decoder
    _train(tuned, images["train"], schedule)
    results = measure(tuned, images["test"], classes)
    save_checkpoint(output, tuned, processor)
    metadata = card_metadata(start.system, license=str(start.card.metadata.get("license", "other")), name=output.name)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in results["iou"].items())
    how = "from scratch" if fresh else schedule.mode
    write_card(
        output,
        metadata,
        f"# {output.name}\n\n{start.name}, {how}, trained to tell {', '.join(classes)} apart on {len(parts['train'])} "
        f"images of `{manifest.name}`. Test part ({len(parts['test'])} images): accuracy {results['accuracy']:.4f}, "
        f"intersection over union: {figures}.\n",
    )
    return results


def of_whole_images(processor: NereusProcessor, config: NereusConfig, size: int) -> NereusProcessor:
    """Return the processor without its centre crop, for images seen at ``size`` pixels a side; 0 for its own.

    Raises:
        UnsupportedOption: The model has patches of which this size is no multiple.
    """
    if size < 0 or (config.backbone == "vit" and size % config.patch_size):
        raise UnsupportedOption(f"size is {size}; it is a multiple of the model's patches", param="size")
    whole = copy.copy(processor)
    whole.crop, whole.size = 0, size or processor.size
    return whole


def read_images(rows: Sequence[Row], processor: NereusProcessor, folder: Path, count: int) -> Images:
    """Read images and their classes.

    Args:
        rows: Of a manifest.
        processor: Of the model.
        folder: That labels are seen from.
        count: Number of classes.

    Raises:
        InvalidManifest: A label is no raster on its image's grid, or names no class anywhere.
        InvalidInput: An image cannot be used.
    """
    pixels, classes = [], []
    for row in rows:
        samples = list(processor.reader().read(Source.from_path(row.file)))
        if len(samples) != 1:
            raise InvalidManifest(f"{row.file} holds {len(samples)} images; one is needed")
        sample = samples[0].checked(str(row.file))
        try:
            pixels.append(processor.prepare(sample))
        except InvalidInput as error:
            raise error.at(str(row.file)) from None
        numbers = _class_numbers(folder / row.label)
        if numbers.shape != sample.data.shape[1:]:
            raise InvalidManifest(
                f"{row.label} has {numbers.shape[0]} x {numbers.shape[1]} pixels, its image {row.file.name} "
                f"{sample.data.shape[1]} x {sample.data.shape[2]}; they lie on one grid"
            )
        known = np.where((numbers >= 0) & (numbers < count), numbers, UNKNOWN)
        if (known == UNKNOWN).all():
            raise InvalidManifest(f"{row.label} holds none of the classes 0 to {count - 1}")
        classes.append(torch.from_numpy(known.astype(np.int64)))
    return Images(torch.stack(pixels), classes)


@torch.no_grad()
def measure(model: NereusModel, images: Images, classes: Sequence[str]) -> dict[str, Any]:
    """Return ``accuracy`` and ``iou`` by class, over all pixels of the images' own grids whose class is known.

    A class that is neither there nor given has no ``iou``.
    """
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for pixels, truth in zip(images.pixels, images.classes, strict=True):
        logits = model.eval().segmentation(pixels[None].to(model.device))
        given = F.interpolate(logits, truth.shape, mode="bilinear", align_corners=False)[0].argmax(0).cpu()
        known = truth != UNKNOWN
        pairs = truth[known] * len(classes) + given[known]
        confusion += torch.bincount(pairs, minlength=confusion.numel()).view_as(confusion)
    right = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - right
    iou = {name: float(r / u) for name, r, u in zip(classes, right, union, strict=True) if u}
    return {"accuracy": float(right.sum() / confusion.sum()), "iou": iou}


def _train(model: NereusModel, images: Images, schedule: Schedule) -> None:
    frozen = schedule.mode == "frozen"
    decoder = list(model.segmenter.parameters())
    groups: list[dict[str, Any]] = [{"params": decoder, "lr": schedule.learning_rate}]
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
    for parameter in decoder:
        parameter.requires_grad_(True)
    if not frozen:
        inside = {id(p) for p in decoder}
        encoder = [p for p in model.parameters() if id(p) not in inside]
        groups.append({"params": encoder, "lr": ENCODER_SHARE * schedule.learning_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps)
    generator = torch.Generator().manual_seed(schedule.seed)
    targets = images.at_model_size()
    # Batch statistics of a few images would spoil those of pretraining, so they stay.
    model.eval()
    for _ in range(schedule.steps):
        chosen = torch.randint(len(targets), (min(schedule.batch_size, len(targets)),), generator=generator)
        logits = model.segmentation(images.pixels[chosen].to(model.device))
        loss = F.cross_entropy(logits, targets[chosen].to(model.device), ignore_index=UNKNOWN)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    model.requires_grad_(True)


def _class_numbers(path: Path) -> NDArray[np.int64]:
    import rasterio

    try:
        driver = driver_of(Source.from_path(path).head())
        if driver in LABEL_DRIVERS:
            with rasterio.open(path, driver=driver) as file:
                return file.read(1).astype(np.int64)
    except (RasterioError, InvalidInput):
        pass
    raise InvalidManifest(f"{path}: no GeoTIFF or PNG of class numbers")

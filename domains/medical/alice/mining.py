"""Embed volumes densely and find pairs of the same anatomy in them, for pretraining with ``pairs: embedding``.

    python -m domains.medical.alice.mining MODEL DATA FOLDER --pairs 50

The published method matches with a separate network (SAM, Self-supervised Anatomical eMbedding). Here the encoder of an
Alice checkpoint that was trained with ``pairs: overlap`` takes its place: one stage of its pyramid for where exactly, a
deeper one for what is around. Embeddings made elsewhere serve as well; see `domains.medical.alice.anatomy`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.medical.alice.anatomy import Anatomy, Pair, write, write_pairs
from domains.medical.alice.matching import DenseEmbedding
from domains.medical.alice.modeling import AliceModel
from domains.medical.alice.processing import AliceProcessor
from hub.errors import InvalidInput
from hub.reading import Source
from hub.training.collation import seeded_generator


@torch.inference_mode()
def embed_densely(model: AliceModel, volume: Tensor, fine: int = 0, coarse: int = -1) -> DenseEmbedding:
    """Embed every cell of a whole volume.

    The mean over the volume is taken off before vectors are brought to unit length: what all cells share would
    otherwise make all cosines high.

    Args:
        model: In eval mode.
        volume: ``(x, y, z)`` from the processor.
        fine: Stage whose grid is searched.
        coarse: Stage that adds the surroundings.
    """
    last = model.config.strides[-1]
    # Extended at the far ends to what the network takes; those cells are cut off again.
    added = [n for side in reversed(volume.shape) for n in (0, -side % last)]
    maps = model.pyramid(F.pad(volume, added)[None, None].to(model.device))
    parts = []
    for level in (fine, coarse):
        stride = model.config.strides[level]
        x, y, z = (-(-side // stride) for side in volume.shape)
        cells = maps[level][0, :, :x, :y, :z].float().cpu()
        parts.append(F.normalize(cells - cells.mean(dim=(1, 2, 3), keepdim=True), dim=0))
    return DenseEmbedding(parts[0], parts[1], per_voxel=[1 / model.config.strides[fine]] * 3)


def mine(
    model: AliceModel,
    processor: AliceProcessor,
    files: Sequence[Path],
    folder: Path,
    *,
    pairs: int = 0,
    margin: int = 10,
    fine: int = 0,
    coarse: int = -1,
    seed: int = 0,
) -> list[tuple[str, Pair]]:
    """Write a folder of embedded volumes, and pairs if asked for; pictures and single slices are passed over.

    Args:
        model: Embeds.
        processor: The one that pretraining will use.
        files: To read.
        folder: To write; made if absent.
        pairs: How many to find for each volume.
        margin: See `domains.medical.alice.collation.AliceCollator`.
        fine: See `embed_densely`.
        coarse: See there.
        seed: Of the draws.

    Raises:
        InvalidInput: A file cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reader = processor.reader()
    keys = []
    for file in files:
        for sample in reader.read(Source.from_path(file)):
            if sample.checked(file.name).data.is_volume:
                volume = processor.volume(sample)
                keys.append(write(folder, volume, embed_densely(model, volume, fine, coarse)))
    if not pairs:
        return []
    anatomy = Anatomy(folder)
    found = [
        (key, anatomy.find(key, margin, seeded_generator(seed, i, n)))
        for i, key in enumerate(keys)
        for n in range(pairs)
    ]
    write_pairs(folder, found)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    import hub

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="Alice checkpoint: a name or a folder")
    parser.add_argument("data", type=Path, help="folder of native files")
    parser.add_argument("folder", type=Path, help="to write")
    parser.add_argument("--pairs", type=int, default=0, help="to find for each volume, for pairs: precomputed")
    parser.add_argument("--margin", type=int, default=10, help="voxels from the far borders in which no point is drawn")
    parser.add_argument("--fine", type=int, default=0, help="stage that is searched")
    parser.add_argument("--coarse", type=int, default=-1, help="stage that adds the surroundings")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    given = parser.parse_args(arguments)
    embedder = hub.from_pretrained(given.model)
    model, processor = embedder.model, embedder.processor
    if not isinstance(model, AliceModel) or not isinstance(processor, AliceProcessor):
        raise SystemExit(f"{given.model} is no Alice checkpoint")
    from hub.domain import get_domain

    files = processor.reader().find(given.data, get_domain("medical").suffixes)
    try:
        found = mine(
            model,
            processor,
            files,
            given.folder,
            pairs=given.pairs,
            margin=given.margin,
            fine=given.fine,
            coarse=given.coarse,
            seed=given.seed,
        )
    except InvalidInput as error:
        raise SystemExit(str(error)) from None
    scores = torch.tensor([pair.score for _, pair in found])
    summary = f", {len(found)} pairs with a median score of {scores.median():.2f}" if found else ""
    print(f"{given.folder}: {len(files)} files{summary}")


if __name__ == "__main__":
    main()

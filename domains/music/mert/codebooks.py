"""Centroids for MERT's k-means teacher, from recordings: ``python -m domains.music.mert.codebooks FOLDER OUT``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from domains.music.mert.processing import MertProcessor
from domains.music.mert.targets import FEATURES, fit_centroids, save_centroids
from hub.domain import get_domain
from hub.errors import HubError, InvalidInput
from hub.reading import Source


def waveforms(folder: Path, processor: MertProcessor) -> Iterator[np.ndarray]:
    """Yield the recordings below a folder at the processor's rate; what cannot be read is named and left out."""
    reader = processor.reader()
    for path in reader.find(folder, get_domain("music").suffixes):
        try:
            for sample in reader.read(Source.from_path(path)):
                yield processor.waveform(sample.checked(path.name)).numpy()
        except InvalidInput as error:
            print(f"left out: {error.at(str(path))}")


def main() -> None:
    """Fit and write the centroids."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="recordings")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--rate", type=int, default=16_000, help="Hz of the model")
    parser.add_argument("--codes", type=int, nargs=2, default=(300, 200), metavar=tuple(n.upper() for n in FEATURES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    processor = MertProcessor(sampling_rate=given.rate)
    found = waveforms(given.folder, processor)
    try:
        save_centroids(given.out, fit_centroids(found, given.rate, processor.hop, given.codes, given.seed))
    except HubError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()

"""What mixed traffic sends: native files for every built-in model, from the smallest to a thousand times that."""

from __future__ import annotations

import io
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import soundfile
from PIL import Image

import hub
from benchmarks.capture import records_of, repeated
from domains.eeg.samples import CHANNELS, simulate
from domains.eeg.writing import edf_bytes
from domains.graphs.samples import AMINO_ACIDS, DRUGS, SOLVENTS
from domains.medical.samples import as_dicom, phantom
from domains.network.writing import pcap
from domains.sar.samples import fields, simulate_slc
from domains.speech.samples import LOW, say
from hub.cards import list_models
from hub.domain import get_domain
from hub.reading import Source


@dataclass(frozen=True)
class File:
    """A file and what Python makes of it.

    Attributes:
        model: Whose input it is.
        name: Sent along.
        content: Its bytes.
        vectors: ``(samples, dimension)``, in the order of its samples.
        keys: Of the samples.
        seconds: That Python took.
    """

    model: str
    name: str
    content: bytes = field(repr=False)
    vectors: np.ndarray = field(repr=False)
    keys: list[str] = field(repr=False)
    seconds: float


def built_in() -> dict[str, str]:
    """Return the models whose weights are here, and the domain of each."""
    return {card.name: card.domain for card in list_models() if card.has_weights}


def files_of(model: str, domain: str) -> list[File]:
    """Return files of one model in ascending size, with the vectors that Python gives.

    Raises:
        InvalidInput: The model does not take one of them.
    """
    embedder = hub.from_pretrained(model)
    found = []
    for name, content in MAKERS.get(model, MAKERS[domain])():
        started = time.perf_counter()
        vectors = embedder.embed(Source.from_bytes(content, name))
        took = time.perf_counter() - started
        table = np.stack([np.asarray(v) for v in vectors])
        found.append(File(model, name, content, table, [key for _, key in vectors.items], took))
    return found


def _sizes(smallest: float, largest: float, count: int = 8) -> list[float]:
    return [float(s) for s in np.geomspace(smallest, largest, count)]


def _voice(seconds: float, rate: int = 16_000) -> np.ndarray:
    spoken = say(LOW, "aeiou")
    return np.resize(spoken, round(seconds * rate))


def _wav(signal: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def speech() -> Iterator[tuple[str, bytes]]:
    """0.06 s to a minute."""
    for seconds in _sizes(0.06, 60):
        yield f"voice-{seconds:.2f}s.wav", _wav(_voice(seconds), 16_000)


def music() -> Iterator[tuple[str, bytes]]:
    """0.03 s to half a minute, at a rate that has to be changed."""
    for seconds in _sizes(0.03, 30):
        yield f"tune-{seconds:.2f}s.wav", _wav(_voice(seconds, 44_100), 44_100)


def eeg() -> Iterator[tuple[str, bytes]]:
    """One channel for four seconds to all channels for ten minutes."""
    for number, seconds in enumerate(_sizes(4, 600)):
        channels = CHANNELS[: max(1, len(CHANNELS) * number // 7)]
        yield f"rest-{seconds:.0f}s.edf", edf_bytes(simulate(channels, 250.0, round(seconds), seed=number))


def graphs() -> Iterator[tuple[str, bytes]]:
    """1 to 2,048 molecules."""
    noise = random.Random(0)
    pieces = [*DRUGS.values(), *AMINO_ACIDS.values(), *SOLVENTS.values()]
    for count in _sizes(1, 2048):
        lines = ["C" * noise.randint(1, 12) + noise.choice(pieces) + f" m{n}\n" for n in range(round(count))]
        yield f"molecules-{count:.0f}.smi", "".join(lines).encode()


def network() -> Iterator[tuple[str, bytes]]:
    """10 to 10,000 packets, of one to some hundred flows."""
    with tempfile.TemporaryDirectory() as folder:
        records = records_of([Path(get_domain("network").load("samples")(Path(folder))[0])])
    for packets in _sizes(10, 10_000):
        yield f"capture-{packets:.0f}.pcap", pcap(list(repeated(records, round(packets))))


def slices() -> Iterator[tuple[str, bytes]]:
    """Pictures and DICOM slices of 24 to 768 pixels a side: a thousand times as many in the largest."""
    for number, side in enumerate(_sizes(24, 768)):
        image = phantom(3, round(side), round(side), number)[1]
        if number % 2:
            yield f"slice-{side:.0f}.dcm", as_dicom(900 * image, "MR", number)
        else:
            buffer = io.BytesIO()
            Image.fromarray(np.round(65535 * image).astype(np.uint16)).save(buffer, "PNG")
            yield f"slice-{side:.0f}.png", buffer.getvalue()


def volumes() -> Iterator[tuple[str, bytes]]:
    """NIfTI volumes of 8 to 80 voxels a side."""
    for number, side in enumerate(_sizes(8, 80, 5)):
        values = np.round(1000 * phantom(*[round(side)] * 3, number)).astype(np.int16)
        yield f"volume-{side:.0f}.nii", nibabel.Nifti1Image(values, np.eye(4)).to_bytes()


def sar() -> Iterator[tuple[str, bytes]]:
    """Complex images of 32 to 1,012 pixels a side."""
    for number, side in enumerate(_sizes(32, 1012, 6)):
        buffer = io.BytesIO()
        np.save(buffer, simulate_slc(fields(round(side), round(side), number), number))
        yield f"scene-{side:.0f}.npy", buffer.getvalue()


MAKERS = {
    "speech": speech,
    "music": music,
    "eeg": eeg,
    "graphs": graphs,
    "network": network,
    "medical": slices,
    "alice-tiny": volumes,
    "sar": sar,
}
"""By domain, and by model where one takes other files than its neighbours."""

"""The teachers whose codes MERT predicts: EnCodec's residual codebooks (v1), and k-means of hand features (v0).

A teacher sees a whole recording once, at its own level, and gives each frame of ``hop`` samples one code a codebook.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import librosa
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from hub.errors import InvalidRecipe

TONE_SECONDS = 0.3


class Teacher(ABC):
    """Recordings to codes."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What tells this teacher from others: kept with its codes."""

    @abstractmethod
    def codes(self, waveform: Tensor, sampling_rate: int, hop: int) -> Tensor:
        """Return the codes of a recording.

        Args:
            waveform: ``(samples,)`` mono, at the recording's own level.
            sampling_rate: Its rate, Hz.
            hop: Samples of a frame.

        Returns:
            ``(frames, codebooks)`` int32, a frame for every ``hop`` samples begun.

        Raises:
            InvalidRecipe: The teacher is not for this rate or hop.
        """


class EncodecTeacher(Teacher):
    """The first codebooks of EnCodec's quantiser (Défossez et al. 2022), by transformers."""

    def __init__(self, source: str, codebooks: int) -> None:
        """Load the codec.

        Args:
            source: Folder or repository of a transformers EnCodec model.
            codebooks: How many of its codebooks to take.

        Raises:
            InvalidRecipe: There is no such codec.
        """
        from transformers import EncodecModel

        try:
            self.model = EncodecModel.from_pretrained(source).eval()  # nosec B615  # a recipe names it
        except (OSError, ValueError) as error:
            raise InvalidRecipe(
                f"pretext.codec: no EnCodec model could be loaded from {source!r} ({type(error).__name__}); give the "
                "folder of a downloaded one, or train with teacher: kmeans"
            ) from None
        self.source, self.codebooks = source, codebooks

    @property
    def name(self) -> str:
        """What tells this teacher from others."""
        return f"encodec {self.source} {self.codebooks}"

    @property
    def bandwidth(self) -> float:
        """Kilobits a second of that many codebooks."""
        config = self.model.config
        return self.codebooks * math.log2(config.codebook_size) * config.frame_rate / 1000

    @torch.inference_mode()
    def codes(self, waveform: Tensor, sampling_rate: int, hop: int) -> Tensor:
        """See the base class."""
        config = self.model.config
        if (sampling_rate, hop) != (config.sampling_rate, config.hop_length):
            raise InvalidRecipe(
                f"the codec takes {config.sampling_rate} Hz and a code every {config.hop_length} samples; the "
                f"model has {sampling_rate} Hz and a frame every {hop}"
            )
        encoded = self.model.encode(waveform[None, None], bandwidth=self.bandwidth)
        return encoded.audio_codes[0, 0].T.int()


def log_mel(waveform: np.ndarray, sampling_rate: int, hop: int) -> np.ndarray:
    """Return 229 log-mel bands below the recording's maximum, down to -80 dB, ``(frames, 229)``."""
    power = _mel_filters(sampling_rate) @ _power(waveform, 2048, hop)
    return (librosa.power_to_db(power, ref=max(float(power.max()), 1e-10)) / 80 + 1).T


def chroma(waveform: np.ndarray, sampling_rate: int, hop: int) -> np.ndarray:
    """Return 264 chroma bins of unit length, ``(frames, 264)``."""
    power = _power(waveform, 4096, hop)
    return librosa.util.normalize(_chroma_filters(sampling_rate) @ power, norm=2, axis=0).T


def _power(waveform: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=")  # zeros stand on both sides of a recording shorter than that
        return np.abs(librosa.stft(waveform, n_fft=n_fft, hop_length=hop)) ** 2


@lru_cache(maxsize=4)
def _mel_filters(sampling_rate: int) -> np.ndarray:
    return librosa.filters.mel(sr=sampling_rate, n_fft=2048, n_mels=229, fmin=30.0)


@lru_cache(maxsize=4)
def _chroma_filters(sampling_rate: int) -> np.ndarray:
    return librosa.filters.chroma(sr=sampling_rate, n_fft=4096, n_chroma=264)


FEATURES: Mapping[str, Callable[[np.ndarray, int, int], np.ndarray]] = {"log_mel": log_mel, "chroma": chroma}
"""What each codebook clusters, in the order of the codebooks (the paper's two, appendix B)."""


class KMeansTeacher(Teacher):
    """The nearest centroids of log-mel and of chroma frames; neither depends on the recording's gain."""

    def __init__(self, centroids: Mapping[str, np.ndarray], source: str) -> None:
        """Keep the centroids.

        Args:
            centroids: ``(codes, features)`` for each name of `FEATURES`.
            source: Where they are from, for `name`.

        Raises:
            InvalidRecipe: Centroids are missing.
        """
        if missing := [name for name in FEATURES if name not in centroids]:
            raise InvalidRecipe(f"{source} holds no centroids of {', '.join(missing)}")
        self.centroids = {name: torch.from_numpy(np.asarray(centroids[name], np.float32)) for name in FEATURES}
        self.source = source

    @property
    def name(self) -> str:
        """What tells this teacher from others."""
        total = sum(float(c.double().sum()) for c in self.centroids.values())
        return f"kmeans {[len(c) for c in self.centroids.values()]} {total:.6g}"

    def codes(self, waveform: Tensor, sampling_rate: int, hop: int) -> Tensor:
        """See the base class."""
        samples = waveform.numpy()
        columns = []
        for name, centroids in self.centroids.items():
            frames = torch.from_numpy(np.ascontiguousarray(FEATURES[name](samples, sampling_rate, hop), np.float32))
            columns.append(torch.cdist(frames, centroids).argmin(1))
        return torch.stack(columns, dim=1).int()

    @classmethod
    def from_file(cls, path: Path) -> KMeansTeacher:
        """Read centroids that `save_centroids` wrote.

        Raises:
            InvalidRecipe: It is no such file.
        """
        try:
            return cls(load_file(path), path.name)
        except (OSError, SafetensorError) as error:
            raise InvalidRecipe(f"pretext.centroids: {path} cannot be read ({type(error).__name__})") from None

    @classmethod
    @lru_cache(maxsize=4)
    def of_tones(cls, sampling_rate: int, hop: int, codes: int) -> KMeansTeacher:
        """Cluster the frames of harmonic tones made on the spot, for runs that have no centroids of their own."""
        return cls(fit_centroids(harmonic_tones(sampling_rate), sampling_rate, hop, [codes, codes]), "tones")


def fit_centroids(
    waveforms: Iterable[np.ndarray], sampling_rate: int, hop: int, codes: Iterable[int], seed: int = 0
) -> dict[str, np.ndarray]:
    """Cluster the frames of recordings, each kind of feature for itself.

    Args:
        waveforms: Mono, at one rate.
        sampling_rate: Hz.
        hop: Samples between frames.
        codes: Centroids of each of `FEATURES`; the paper's are 300 and 200.
        seed: Of the clustering.

    Returns:
        ``(codes, features)`` float32 by name.

    Raises:
        InvalidRecipe: There are fewer frames than centroids.
    """
    from sklearn.cluster import MiniBatchKMeans

    collected: dict[str, list[np.ndarray]] = {name: [] for name in FEATURES}
    for waveform in waveforms:
        for name, feature in FEATURES.items():
            collected[name].append(feature(waveform, sampling_rate, hop).astype(np.float32))
    centroids = {}
    for (name, frames), count in zip(collected.items(), codes, strict=True):
        table = np.concatenate(frames) if frames else np.zeros((0, 1), np.float32)
        if len(table) < count:
            raise InvalidRecipe(f"{count} centroids of {name} need as many frames at least; there are {len(table)}")
        clustering = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=seed).fit(table)
        centroids[name] = clustering.cluster_centers_.astype(np.float32)
    return centroids


def save_centroids(path: Path, centroids: Mapping[str, np.ndarray]) -> None:
    """Write centroids as safetensors."""
    save_file({name: np.ascontiguousarray(table) for name, table in centroids.items()}, path)


def harmonic_tones(sampling_rate: int) -> list[np.ndarray]:
    """Return short tones of every semitone from C2 to B6, in three timbres, the same every time."""
    time = np.arange(round(TONE_SECONDS * sampling_rate)) / sampling_rate
    draws = np.random.default_rng(0)
    tones = []
    for note in range(36, 96):
        pitch = 440 * 2 ** ((note - 69) / 12)
        for slope in (0.5, 1.0, 2.0):
            partials = np.arange(1, max(2, min(20, int(0.45 * sampling_rate / pitch))))
            phases = 2 * np.pi * (np.outer(time, partials) * pitch + draws.random(len(partials)))
            tones.append((np.sin(phases) @ partials**-slope * np.exp(-3 * time)).astype(np.float32))
    return tones

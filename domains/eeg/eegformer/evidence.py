"""Which codes of a recording tell most, and where on the signal they lie (paper, section 2.4)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from domains.eeg.eegformer.modeling import EEGFormerModel
from domains.eeg.eegformer.ngrams import Ngram, NgramClassifier, ngrams
from domains.eeg.eegformer.processing import MICROVOLTS, EEGFormerProcessor
from domains.eeg.eegformer.windowing import covering
from hub.embedder import Embedder
from hub.errors import InvalidInput, InvalidManifest, UnsupportedOption
from hub.manifest import read_manifest
from hub.reading import Sample, Source, Span


@dataclass(frozen=True)
class Row:
    """Codes of one channel of one window (or frame).

    Attributes:
        channel: Its number.
        start: Seconds after the recording's beginning.
        codes: One a token.
        spectra: What the tokens stand for, ``(tokens, values)``: normalised, as the model reads them.
    """

    channel: int
    start: float
    codes: list[int]
    spectra: NDArray[np.float32]


@dataclass(frozen=True)
class Mark:
    """Where an n-gram lies: a channel, and from where to where in seconds or, for frequency tokens, in Hz."""

    channel: int
    start: float
    stop: float


@dataclass(frozen=True)
class Finding:
    """An n-gram of a recording, and how loudly it speaks.

    Attributes:
        ngram: Its codes.
        ratio: Log ratio of its probability for the label, to that for the likeliest other label (or of its share in the
            recording to that in pretraining).
        marks: Where it lies.
        spectrum: Mean over its tokens, ``(values,)``.
    """

    ngram: Ngram
    ratio: float
    marks: list[Mark]
    spectrum: NDArray[np.float32]

    @property
    def evidence(self) -> float:
        """What it adds to the decision in all its places."""
        return self.ratio * len(self.marks)


@dataclass(frozen=True)
class Verdict:
    """What naive Bayes over n-grams makes of a recording.

    Attributes:
        label: The likeliest, or the one asked for.
        probability: Of that label.
        records: How many the classifier learnt from.
        others: Mean spectrum of the records of all other labels, ``(values,)``.
    """

    label: str
    probability: float
    records: int
    others: NDArray[np.float32]


@dataclass(frozen=True)
class Learnt:
    """A classifier of labels by n-grams, and the records that it learnt from.

    Attributes:
        classifier: Over counts of n-grams.
        spectra: Label to the mean spectra of its records, ``(records, values)``.
    """

    classifier: NgramClassifier
    spectra: dict[str, NDArray[np.float32]]


def coder(embedder: Embedder) -> tuple[EEGFormerModel, EEGFormerProcessor]:
    """Return model and processor of a checkpoint with codes.

    Raises:
        UnsupportedOption: It has none.
    """
    model, processor = embedder.model, embedder.processor
    if not isinstance(model, EEGFormerModel) or not isinstance(processor, EEGFormerProcessor):
        raise UnsupportedOption(f"{embedder.name} has no codes to explain; give an EEGFormer checkpoint", param="model")
    return model, processor


def read_one(processor: EEGFormerProcessor, path: Path, span: Span | None = None) -> Sample:
    """Return a file, or a part of it, as one sample, however long."""
    return next(iter(processor.reader().read(Source.from_path(path), span or Span(0.0))))


@torch.inference_mode()
def code_rows(embedder: Embedder, sample: Sample) -> list[Row]:
    """Return the codes of a sample, row by row.

    Raises:
        InvalidInput: The sample is too short for the model.
    """
    model, processor = coder(embedder)
    front_end = processor.front_end
    features = processor.prepare(sample)
    values = features["input_values"].to(model.device, model.dtype)
    codes, _ = model.reconstruct(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
    samples = sample.data.signal.shape[1]
    size, channels = min(samples, processor.window_samples), len(sample.data.channels)
    rows_each, _ = front_end.rows_and_tokens(size)
    starts = [
        (first + frame * front_end.hop) / front_end.sampling_rate
        for first in covering(samples, processor.window_samples)
        for frame in range(rows_each)
    ]
    numbers, spectra = codes.tolist(), features["input_values"].numpy()
    return [Row(i % channels, starts[i // channels], numbers[i], spectra[i]) for i in range(len(numbers))]


def learn(embedder: Embedder, manifest: Path, highest: int, without: Path) -> Learnt:
    """Fit naive Bayes on the n-grams of a labelled set.

    Args:
        embedder: Finds the codes.
        manifest: The set.
        highest: Codes in the longest n-gram.
        without: A file that is left out: the one to be explained.

    Raises:
        InvalidManifest: Fewer than two labels are left.
    """
    _, processor = coder(embedder)
    records, labels, spectra = [], [], defaultdict(list)
    for row in read_manifest(manifest, need=("file", "label")):
        if row.file.resolve() != without.resolve():
            sample = read_one(processor, row.file, row.span)
            rows = code_rows(embedder, sample)
            records.append([r.codes for r in rows])
            labels.append(row.label)
            spectra[row.label].append(np.concatenate([r.spectra for r in rows]).mean(0))
    if len(set(labels)) < 2:
        raise InvalidManifest(f"{manifest} leaves {len(set(labels))} label(s) to tell apart; at least two are needed")
    return Learnt(NgramClassifier(1, highest).fit(records, labels), {k: np.stack(v) for k, v in spectra.items()})


def judge(learnt: Learnt, rows: Sequence[Row], label: str | None) -> Verdict:
    """Return a label and its probability: the likeliest, or the one asked for.

    Raises:
        InvalidInput: The set has no such label.
    """
    known = learnt.classifier.bayes.classes_.tolist()
    probabilities = learnt.classifier.probabilities([[r.codes for r in rows]])[0]
    if label is not None and label not in known:
        raise InvalidInput(f"no label {label!r} in the manifest; it has {', '.join(map(str, known))}", code="no_label")
    place = known.index(label) if label is not None else int(probabilities.argmax())
    others = np.concatenate([spectra for name, spectra in learnt.spectra.items() if name != known[place]])
    records = sum(len(spectra) for spectra in learnt.spectra.values())
    return Verdict(known[place], float(probabilities[place]), records, others.mean(0))


def telling(
    embedder: Embedder, rows: Sequence[Row], count: int, classifier: NgramClassifier | None, label: str | None
) -> list[Finding]:
    """Return the n-grams of a recording that add most evidence, the loudest first.

    Args:
        embedder: Its codebook knows how often each code was used at the end of pretraining.
        rows: Of the recording.
        count: How many.
        classifier: Tells labels apart; without one, codes are held against their use in pretraining.
        label: For which the n-grams shall speak.
    """
    model, processor = coder(embedder)
    highest = classifier.highest if classifier is not None else 1
    found = Counter(ngram for row in rows for _, ngram in ngrams(row.codes, 1, highest))
    if classifier is not None:
        own = classifier.log_ratios(label)
        ratios = {n: float(own[classifier.vocabulary[n]]) for n in found if n in classifier.vocabulary}
    else:
        use = model.codebook.cluster_size.double().cpu().numpy() + 1e-9
        # A share of one token in either place keeps a rare code from an endless ratio.
        share, total = use / use.sum(), sum(found.values())
        ratios = {n: float(np.log((c + 1) / total) - np.log(share[n[0]] + 1 / total)) for n, c in found.items()}
    ranked = sorted(((r * found[n], n) for n, r in ratios.items() if r > 0), key=lambda pair: (-pair[0], pair[1]))
    return [_finding(processor, rows, ngram, ratios[ngram]) for _, ngram in ranked[:count]]


def _finding(processor: EEGFormerProcessor, rows: Sequence[Row], ngram: Ngram, ratio: float) -> Finding:
    front_end = processor.front_end
    marks, spectra = [], []
    for row in rows:
        for place, other in ngrams(row.codes, len(ngram), len(ngram)):
            if other != ngram:
                continue
            begin, end = front_end.token_span(place)[0], front_end.token_span(place + len(ngram) - 1)[1]
            offset = row.start if front_end.token_axis == "time" else 0.0
            marks.append(Mark(row.channel, offset + begin, offset + end))
            spectra.append(row.spectra[place : place + len(ngram)].mean(0))
    return Finding(ngram, ratio, marks, np.mean(spectra, axis=0))


def traces(processor: EEGFormerProcessor, sample: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what marks are drawn on: seconds and microvolts, or Hz and the mean spectrum of each channel.

    Returns:
        ``(points,)`` and ``(channels, points)``.
    """
    front_end = processor.front_end
    signal = processor.condition(sample).signal * MICROVOLTS
    if front_end.token_axis == "time":
        return np.arange(signal.shape[1]) / processor.sampling_rate, signal
    from domains.eeg.eegformer.windowing import cut

    raw = front_end.raw(cut(signal, processor.window_samples))
    return front_end.frequencies, np.linalg.norm(raw, axis=-1).mean((0, 2))

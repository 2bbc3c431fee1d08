"""``fmhub explain``: the codes that tell most about a recording, drawn back on its signal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from hub.errors import UnsupportedOption

MOST_SECONDS = 24.0
"""Of a longer recording the stretch with the most evidence is drawn."""
MOST_CHANNELS = 12
"""Of more channels those with the most evidence are drawn."""
COLOURS = ("#d1495b", "#2e86ab", "#edae49", "#3c896d", "#7b4b94", "#8d6a4f")
"""One for each n-gram that is drawn."""


def explain(
    model: Annotated[str, typer.Argument(help="An EEGFormer checkpoint.")],
    file: Annotated[Path, typer.Argument(help="A recording.")],
    out: Annotated[Path, typer.Option(help="Figure to write; the suffix says its format (.png, .pdf, .svg).")],
    manifest: Annotated[
        Path | None, typer.Option(help="CSV with file,label: draw what tells its labels apart. Else: what is unusual.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label to speak for; the likeliest if not given.")] = None,
    longest: Annotated[int, typer.Option(help="Codes in the longest n-gram; 1 without a manifest.")] = 2,
    top: Annotated[int, typer.Option(help="N-grams to draw, 1 to 6.")] = 4,
    start: Annotated[float, typer.Option(help="Only from here on, seconds.")] = 0.0,
    stop: Annotated[float | None, typer.Option(help="Only up to here, seconds.")] = None,
) -> None:
    """Draw the codes that tell most about an EEG recording back on its signal; writes a figure.

    With a labelled set, naive Bayes over n-grams of codes learns from its files (without this one) and says which label
    is the likeliest; the n-grams that add most evidence for it are drawn. Without, the codes are that this recording
    uses more than pretraining did.
    """
    import hub
    from domains.eeg.eegformer.evidence import code_rows, coder, judge, learn, read_one, telling
    from hub.reading import Span

    if not 1 <= top <= len(COLOURS):
        raise UnsupportedOption(f"top is {top}; it lies between 1 and {len(COLOURS)}", param="top")
    if longest < 1:
        raise UnsupportedOption(f"longest is {longest}; it must be at least 1", param="longest")
    if manifest is None and label is not None:
        raise UnsupportedOption("a label needs a --manifest in which it occurs", param="label")
    embedder = hub.from_pretrained(model)
    _, processor = coder(embedder)
    sample = read_one(processor, file, Span(start, stop))
    rows = code_rows(embedder, sample)
    if manifest is None:
        findings = telling(embedder, rows, top, None, None)
        reference = np.concatenate([row.spectra for row in rows]).mean(0)
        heading, grey = f"{file.name}: codes it uses more than pretraining did", "this recording"
    else:
        learnt = learn(embedder, manifest, longest, without=file)
        verdict = judge(learnt, rows, label)
        findings = telling(embedder, rows, top, learnt.classifier, verdict.label)
        reference, grey = verdict.others, "the other labels"
        heading = (
            f"{file.name}: evidence for '{verdict.label}', probability {verdict.probability:.3f} "
            f"by naive Bayes from {verdict.records} other records"
        )
    draw(processor, sample, findings, heading, out, reference=reference, grey=grey)
    for finding in findings:
        codes = "-".join(map(str, finding.ngram))
        typer.echo(f"{codes}: log ratio {finding.ratio:.3f}, {len(finding.marks)} times")
    typer.echo(f"{out}: {heading}")


def draw(
    processor: Any,
    sample: Any,
    findings: Sequence[Any],
    heading: str,
    out: Path,
    *,
    reference: NDArray[np.float32],
    grey: str,
) -> None:
    """Draw the recording with the n-grams' places in colour, and beside it what each stands for.

    Args:
        processor: Of the model.
        sample: The recording.
        findings: The n-grams.
        heading: Title of the figure.
        out: Where to; folders are made.
        reference: Spectrum that those of the n-grams are held against, ``(values,)``.
        grey: Whose mean the reference is.

    Raises:
        UnsupportedOption: The suffix is of no format that can be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from domains.eeg.eegformer.evidence import traces

    in_time = processor.front_end.token_axis == "time"
    places, lines = traces(processor, sample)
    shown = _channels(findings, len(lines))
    first, last = _stretch(places, findings) if in_time else (places[0], places[-1])
    inside = (places >= first) & (places <= last)

    height = max(4.5, 0.9 * len(shown) + 2, 1.35 * len(findings) + 1)
    figure = Figure(figsize=(13, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    grid = figure.add_gridspec(max(len(findings), 1), 2, width_ratios=(3.4, 1))
    axes = figure.add_subplot(grid[:, 0])
    spacing = _spacing(lines[shown][:, inside])
    for place, channel in enumerate(shown):
        level = -place * spacing
        line = lines[channel][inside]
        line = line - (np.median(line) if in_time else line.min())
        axes.plot(places[inside], line + level, color="#222222", linewidth=0.6)
        for strip, (finding, colour) in enumerate(zip(findings, COLOURS, strict=False)):
            # A tint over the signal, and a strip of its own below: n-grams may lie on one another.
            bottom = level - (0.5 - 0.03 * strip) * spacing
            for mark in finding.marks:
                if mark.channel == channel and mark.stop > first and mark.start < last:
                    span = [max(mark.start, first), min(mark.stop, last)]
                    low, high = level - 0.5 * spacing, level + 0.45 * spacing
                    axes.fill_between(span, low, high, color=colour, alpha=0.1, lw=0)
                    axes.fill_between(span, bottom, bottom + 0.025 * spacing, color=colour, lw=0)
    axes.set_yticks([-p * spacing for p in range(len(shown))], [sample.data.channels[c] for c in shown])
    axes.set_ylim(-(len(shown) - 0.3) * spacing, 0.7 * spacing)
    axes.set_xlim(first, last)
    axes.set_xlabel("seconds" if in_time else "Hz")
    unit = "µV" if in_time else "amplitude"
    axes.set_title(f"a channel's band is {spacing:,.4g} {unit} high", fontsize=9, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _draw_spectra(figure, grid, processor, findings, reference, grey)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out, dpi=130)
    except ValueError as error:
        raise UnsupportedOption(f"{out.name}: {str(error).splitlines()[0]}", param="out") from None


def _draw_spectra(
    figure: Any, grid: Any, processor: Any, findings: Sequence[Any], mean: NDArray[np.float32], grey: str
) -> None:
    """Draw what each n-gram stands for, beside a mean: normalised spectra."""
    whole = processor.front_end.values == processor.front_end.bins
    x = processor.front_end.frequencies if whole else np.arange(len(mean))
    axes = None
    for place, (finding, colour) in enumerate(zip(findings, COLOURS, strict=False)):
        axes = figure.add_subplot(grid[place, 1], sharex=axes)
        axes.plot(x, mean, color="#999999", linewidth=1)
        axes.plot(x, finding.spectrum, color=colour, linewidth=1.6)
        axes.fill_between(x, mean, finding.spectrum, color=colour, alpha=0.15, lw=0)
        codes = "-".join(map(str, finding.ngram))
        times = f"{len(finding.marks)} time" + ("s" if len(finding.marks) > 1 else "")
        axes.set_title(f"code {codes}: log ratio {finding.ratio:+.2f}, {times}", fontsize=8.5, loc="left", color=colour)
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    if axes is not None:
        axes.set_xlabel(f"{'Hz' if whole else 'bin of the patch'}; grey is the mean of {grey}", fontsize=8)


def _channels(findings: Sequence[Any], count: int) -> list[int]:
    """Return the channels to draw, in their order."""
    evidence = np.zeros(count)
    for finding in findings:
        for mark in finding.marks:
            evidence[mark.channel] += finding.ratio
    return sorted(np.argsort(-evidence, kind="stable")[:MOST_CHANNELS].tolist())


def _stretch(seconds: NDArray[np.float64], findings: Sequence[Any]) -> tuple[float, float]:
    """Return the stretch to draw: of a long recording the one with the most evidence."""
    total = float(seconds[-1])
    if total <= MOST_SECONDS:
        return 0.0, total
    starts = np.arange(0, total - MOST_SECONDS + 1)
    evidence = np.zeros(len(starts))
    for finding in findings:
        for mark in finding.marks:
            evidence += finding.ratio * ((mark.start >= starts) & (mark.stop <= starts + MOST_SECONDS))
    begin = float(starts[int(evidence.argmax())])
    return begin, begin + MOST_SECONDS


def _spacing(lines: NDArray[np.float64]) -> float:
    """Return how far apart channels are drawn: what most of a channel's samples stay within, a round number."""
    low, high = np.percentile(lines, [1, 99], axis=1)
    spread = max(float(np.max(high - low)), 1e-9)
    unit = 10.0 ** np.floor(np.log10(spread))
    return float(np.ceil(spread / unit * 2) / 2 * unit)

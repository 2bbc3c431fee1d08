"""A picture of a flow: its packets in order, by direction and size; no address is in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domains.network.flow import Flow
from domains.network.netfound.vocabulary import FIELDS
from hub.drawing import ACCENT, CONTRAST, INK, QUIET, as_svg, new_figure
from hub.modeling import TaskFile
from hub.reading import Sample

FEW = 20
"""Packets for which there is always room, so that a few are not drawn as wide blocks."""
LABELS = 11
"""Times for which there is room below the picture."""
NAMES = {1: "ICMP", 6: "TCP", 17: "UDP"}


def preview(sample: Sample, small: bool = False) -> TaskFile:
    """Return an SVG of the kept packets of a flow: those of the initiator upwards, the answers downwards.

    Args:
        sample: Of the domain's reader.
        small: Without axes, for a list.
    """
    flow: Flow = sample.data
    sizes, starts = _packets(flow)
    figure = new_figure(*((240, 140) if small else (760, 300)))
    axes = figure.subplots()
    edge = max(100.0, float(np.abs(sizes).max())) * 1.15
    for number, (begin, stop) in enumerate(zip(starts, [*starts[1:], len(sizes)], strict=True)):
        if number % 2 == 0:
            axes.axvspan(begin - 0.5, stop - 0.5, color=QUIET, alpha=0.1, linewidth=0)
    colours = [ACCENT if size > 0 else CONTRAST for size in sizes]
    axes.bar(range(len(sizes)), sizes, color=colours, width=0.75)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-0.7, max(len(sizes), FEW) - 0.3)
    axes.set_ylim(-edge, edge)
    if small:
        axes.set_axis_off()
        return as_svg(figure)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_xticks(starts, _moments(flow, starts, max(len(sizes), FEW) / LABELS))
    axes.tick_params(axis="x", labelsize=8, length=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    axes.set_ylabel("bytes of a packet")
    axes.set_xlabel("bursts in their order, and when each begins after the one before it in its direction")
    total = flow.packets or len(sizes)
    shown = f" (the first {len(sizes)} shown)" if total > len(sizes) else ""
    name = NAMES.get(flow.protocol, str(flow.protocol))
    axes.set_title(f"{name}, {total:,} packets{shown}, {flow.duration / 1e6:.3g} s", loc="left", color=INK)
    for place, text, colour in ((0.83, "up: from the initiator", ACCENT), (1.0, "down: answers", CONTRAST)):
        axes.text(place, 1.03, text, color=colour, ha="right", va="bottom", transform=axes.transAxes, fontsize=9)
    return as_svg(figure)


def _packets(flow: Flow) -> tuple[NDArray[np.float64], list[int]]:
    """Return IP lengths ``(packets,)``, negative for answers, and the place of each burst's first packet."""
    length = FIELDS[flow.protocol].index("IP_tl")
    sizes: list[float] = []
    starts: list[int] = []
    for tokens, outward in zip(flow.burst_tokens, flow.directions, strict=True):
        starts.append(len(sizes))
        packets = tokens.reshape(-1, flow.packet_tokens)
        sizes += (packets[:, length] * (1.0 if outward else -1.0)).tolist()
    return np.array(sizes), starts


def _moments(flow: Flow, starts: list[int], room: float) -> list[str]:
    """Return when bursts begin, leaving out those for which there is no room in packets after the label before."""
    labels: list[str] = []
    last = -room
    for start, microseconds in zip(starts, flow.iats.tolist(), strict=True):
        if microseconds == 0 or start - last < room:
            labels.append("")
            continue
        labels.append(f"+{microseconds / 1e3:.0f} ms" if microseconds < 10_000_000 else f"+{microseconds / 1e6:.0f} s")
        last = start
    return labels

"""Captures and stored rows to flows, told apart by content."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from domains.network.capture.extraction import Extraction, Limits
from domains.network.capture.window import Window
from domains.network.flow import Flow
from domains.network.rows import flow_of, is_rows, read_rows
from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge
from hub.reading import Reader, Sample, Source, Span

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}
TCP = 6
ANSWERED = 4
"""Packets of a TCP connection from which on some must go the other way; a scan repeats its first packet a few times."""
_COMPRESSED = (".gz", ".zst")


@dataclass
class CaptureReader(Limits, Reader):
    """pcap, pcapng (as they are, gzip or zstd) and Arrow streams of netFound's rows, to one `Flow` sample a flow.

    What a capture as a whole is warned about stands at the first flow that is yielded after it was found.

    Attributes:
        compat: Flows and tokens as netFound's own tools make them, their slips included: times cut to microseconds,
            IPv6 addresses compared by 32 bits and traffic classes cut to 4, ICMP payload read from where their library
            takes it, hosts of two networks always forward; and nothing of what they lose: tunnels, IPv6 extension
            headers, ICMP of a capture with several pairs of hosts, and all but the last flow of endpoints that connect
            anew. For checkpoints whose corpus was made so, and for comparisons.
        name_endpoints: Whether a sample's key holds the addresses and ports of its flow; else it is named by place and
            time alone.
    """

    compat: bool = False
    name_endpoints: bool = False

    plain_form: ClassVar[str] = (
        'a stored row, {"protocol": 17, "flow_duration": 0, "directions": [true], "bytes": [60], "iats": [0], '
        '"counts": [1], "burst_tokens": [[20, 0, 60, 0, 64, 40, 0, 0, 0, 0, 0, 0]]}'
    )

    def find(self, folder: Path, suffixes: Collection[str]) -> list[Path]:
        """Return the captures below a folder; a compressed one is told by the suffix before."""
        packed = {end for end in _COMPRESSED if any(folder.rglob(f"*{end}"))}
        found = super().find(folder, {*suffixes, *packed})
        return [f for f in found if f.suffix.lower() not in packed or Path(f.stem).suffix.lower() in suffixes]

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        """Yield the flows of a file; see `Reader.read`."""
        try:
            if source.path is not None and source.path.is_dir():
                raise InvalidInput("a folder; give a capture, or the files in it", code="is_a_folder")
            yield from self._rows(source, span) if is_rows(source.head(16)) else self._capture(source, span)
        except InvalidInput as error:
            raise error.at(source.name) from None

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        """Yield the flow of a stored row, or those of a list of rows.

        Raises:
            InvalidInput: A row lacks a field or contradicts itself.
        """
        rows = value if isinstance(value, list) else [value]
        if not rows:
            raise InvalidInput(f"no rows; expected {self.plain_form}", code="bad_form", source=name)
        for number, row in enumerate(rows):
            try:
                yield self._sample(str(number) if len(rows) > 1 else "", flow_of(_with_lists(row)))
            except InvalidInput as error:
                raise error.at(f"{name}[{number}]" if len(rows) > 1 else name) from None

    def _capture(self, source: Source, span: Span | None) -> Iterator[Sample]:
        extraction, told = Extraction(self, self.compat, span), 0
        with Window(source, extraction.notes, self.max_bytes, self.max_expansion) as window:
            for index, flow in extraction.flows(window):
                warnings = extraction.notes.sentences()
                yield self._sample(self._key(index, flow), flow, warnings[told:])
                told = len(warnings)

    def _rows(self, source: Source, span: Span | None) -> Iterator[Sample]:
        if span is not None:
            raise InvalidInput("stored rows have no time axis to cut a span from", code="no_time_axis")
        if source.size > self.max_bytes:
            raise TooLarge(f"the file has {source.size:,} bytes; at most {self.max_bytes:,} are read")
        usable = False
        for number, (row, label) in enumerate(read_rows(source)):
            if isinstance(row, InvalidInput):
                sample = Sample(data=None, key=str(number), error=row)
            else:
                sample, usable = self._sample(str(number), row, label=label), True
            if number >= self.max_flows:
                raise TooLarge(f"more than {self.max_flows:,} rows; split the file")
            yield sample
        if not usable:
            raise InvalidInput("the Arrow stream holds no row that can be used", code="no_flows")

    def _key(self, index: int, flow: Flow) -> str:
        key = f"{index}@{np.datetime64(round(flow.start * 1e6), 'us')}Z"
        if not self.name_endpoints or flow.endpoints is None:
            return key
        ends = [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in (flow.endpoints[:2], flow.endpoints[2:])
        ]
        return f"{key} {PROTOCOLS[flow.protocol]} {' > '.join(ends)}"

    def _sample(self, key: str, flow: Flow, warnings: tuple[str, ...] = (), label: str = "") -> Sample:
        facts: dict[str, Any] = {
            "protocol": PROTOCOLS[flow.protocol],
            "packets": flow.packets,
            "bursts": len(flow.burst_tokens),
            "duration": flow.duration / 1e6,
        }
        if label:
            facts["label"] = label
        if flow.protocol == TCP and flow.packets >= ANSWERED and len(set(flow.directions.tolist())) == 1:
            text = "Only one direction of this TCP connection was captured."
            warnings = (*warnings, Doubt(text, "one_direction"))
        return Sample(data=flow, key=key, warnings=warnings, metadata=facts)


def _with_lists(row: Any) -> Any:
    """Return a row with lists where it has arrays."""
    if not isinstance(row, Mapping):
        return row
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}

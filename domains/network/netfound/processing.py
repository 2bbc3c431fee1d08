"""netFound's processor: flows to padded batches of tokens with the metadata of their bursts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from domains.network.flow import PACKET_TOKENS, PAYLOAD_TOKENS, Flow
from domains.network.netfound.vocabulary import PADDING, VOCABULARIES
from domains.network.reading import CaptureReader
from hub.errors import InvalidInput
from hub.processing import Processor
from hub.reading import Sample


@dataclass(frozen=True)
class FlowTokens:
    """One flow, ready for a batch.

    Attributes:
        bursts: For each burst its token ids, int64, the CLS token in front.
        metadata: ``(bursts, 4)`` float32: direction (1 from the initiator, else -1), bytes, packets, and whole
            milliseconds since the burst before it in the same direction.
        protocol: IP protocol number.
    """

    bursts: list[Tensor]
    metadata: Tensor
    protocol: int


class NetFoundProcessor(Processor):
    """Flows to token ids, as the published tokenizer and collator make them, or in a smaller vocabulary."""

    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask", "metadata", "protocol"]
    cost_unit = "tokens"
    batch_cost = 8_192

    def __init__(
        self,
        strip_payload: bool = True,
        vocabulary: str = "values",
        max_bursts: int = 12,
        max_burst_length: int = 73,
        compat: bool = False,
        name_endpoints: bool = False,
        **kwargs: Any,
    ) -> None:
        """Set how flows become tokens; the defaults are those of the published second generation.

        Args:
            strip_payload: Leave out the tokens of the payload.
            vocabulary: ``values`` (published) or ``fields``; see `domains.network.netfound.vocabulary`.
            max_bursts: Bursts of a flow that are used.
            max_burst_length: Tokens of a burst that are used, its CLS token included.
            compat: Of the reader: cut captures to flows as the published tools do, their slips included.
            name_endpoints: Of the reader: name flows by their addresses and ports.
            kwargs: Attributes that transformers keeps in a saved processor.

        Raises:
            ValueError: There is no such vocabulary.
        """
        if vocabulary not in VOCABULARIES:
            raise ValueError(f"vocabulary={vocabulary!r}: choose one of {', '.join(VOCABULARIES)}")
        super().__init__(**kwargs)
        self.strip_payload = strip_payload
        self.vocabulary = vocabulary
        self.max_bursts = max_bursts
        self.max_burst_length = max_burst_length
        self.compat = compat
        self.name_endpoints = name_endpoints

    def reader(self) -> CaptureReader:
        """Return the network domain's reader, set as this processor wants it."""
        return CaptureReader(compat=self.compat, name_endpoints=self.name_endpoints)

    def cost(self, sample: Sample) -> int:
        """Return the tokens of the flow when its bursts are padded to the longest."""
        flow: Flow = sample.data
        lengths = [self._length(tokens, flow) for tokens in flow.burst_tokens[: self.max_bursts]]
        return max(1, len(lengths)) * max(lengths, default=1)

    def _length(self, tokens: np.ndarray[Any, Any], flow: Flow) -> int:
        width = flow.packet_tokens
        kept = len(tokens) // width * (width - PAYLOAD_TOKENS) if self.strip_payload else len(tokens)
        return min(1 + kept, self.max_burst_length)

    def prepare(self, sample: Sample) -> FlowTokens:
        """Return the tokens and metadata of one flow.

        Raises:
            InvalidInput: The flow holds no burst, or is of another protocol than TCP, UDP and ICMP.
        """
        flow: Flow = sample.data
        if flow.protocol not in PACKET_TOKENS:
            raise InvalidInput(
                f"the flow is of IP protocol {flow.protocol}; TCP (6), UDP (17) and ICMP (1) are read",
                code="unsupported_protocol",
            )
        if not flow.burst_tokens:
            raise InvalidInput("the flow holds no packet", code="empty_flow")
        gaps = flow.iats.astype(np.float64) // 1000
        columns = (np.where(flow.directions, 1, -1), flow.bytes, flow.counts, gaps)
        metadata = np.stack([np.asarray(c, np.float32) for c in columns], axis=1)[: self.max_bursts]
        bursts = [self._burst(tokens, flow) for tokens in flow.burst_tokens[: self.max_bursts]]
        return FlowTokens(bursts, torch.from_numpy(metadata), flow.protocol)

    def _burst(self, tokens: np.ndarray[Any, Any], flow: Flow) -> Tensor:
        vocabulary = VOCABULARIES[self.vocabulary]
        width = flow.packet_tokens
        packets = tokens[: len(tokens) // width * width].reshape(-1, width)
        if self.strip_payload:
            packets = packets[:, : width - PAYLOAD_TOKENS]
        ids = vocabulary.ids(packets, flow.protocol).reshape(-1)
        return torch.from_numpy(np.concatenate([[vocabulary.cls_id], ids])[: self.max_burst_length])

    def pad(self, features: Sequence[FlowTokens]) -> dict[str, Tensor]:
        """Pad flows to the most bursts and the longest burst.

        Returns:
            ``input_ids`` and ``attention_mask`` ``(batch, bursts, tokens)``, ``metadata`` ``(batch, bursts, 4)`` and
            ``protocol`` ``(batch,)``.
        """
        most = max(len(flow.bursts) for flow in features)
        longest = max(len(burst) for flow in features for burst in flow.bursts)
        ids = torch.full((len(features), most, longest), PADDING)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        metadata = torch.zeros(len(features), most, features[0].metadata.shape[1])
        for row, flow in enumerate(features):
            metadata[row, : len(flow.bursts)] = flow.metadata
            for number, burst in enumerate(flow.bursts):
                ids[row, number, : len(burst)] = burst
                mask[row, number, : len(burst)] = True
        protocol = torch.tensor([flow.protocol for flow in features])
        return {"input_ids": ids, "attention_mask": mask, "metadata": metadata, "protocol": protocol}

"""A dummy embedder with known arithmetic, so that a mixed-up order, a lost sample or leaking padding shows.

A sample is a list of numbers; its embedding is (mean, mean of squares, 1, count / 1000). A file starts with
``NUM1`` and holds one sample a line, ``key: 1 2 3``. The number 666 makes the model raise, 1e30 makes the embedding
infinite, 404 makes the processor raise what nobody foresaw, 505 makes the model hang.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hub.cards import Card
from hub.catalog import Checkpoint
from hub.configuration import EmbeddingConfig
from hub.domain import Domain, System
from hub.doubts import Doubt
from hub.embedder import Embedder
from hub.errors import InvalidInput, TooLarge, UnknownModel, UnsupportedFormat
from hub.modeling import EmbeddingModel, EncoderOutput, TaskFile
from hub.processing import Processor
from hub.reading import Reader, Sample, Source, Span

MAGIC = b"NUM1\n"
POISON = 666.0
HANG = 505.0
DIMENSION = 4


def expected(values: Sequence[float]) -> np.ndarray:
    """The embedding that these numbers must get."""
    v = np.asarray(values, np.float32)
    return np.array([v.mean(), (v * v).mean(), 1.0, len(v) / 1000], np.float32)


def file_of(*samples: Sequence[float]) -> bytes:
    """A file with one line a sample, keys s0, s1, ..."""
    lines = [f"s{i}: " + " ".join(map(str, s)) for i, s in enumerate(samples)]
    return MAGIC + "\n".join(lines).encode()


@dataclass
class NumberReader(Reader):
    max_numbers: int = 5000
    plain_form: ClassVar[str] = (
        'string of numbers, "1 2 3", or an array of them, [1, 2, 3], or {"numbers": [1, 2], "scale": 2}'
    )

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        content = source.open().read()
        if not content.startswith(MAGIC):
            raise UnsupportedFormat("not a file of numbers")
        for line in content[len(MAGIC) :].decode("ascii", "replace").splitlines():
            key, _, numbers = line.partition(":")
            try:
                yield self._sample(numbers.split(), key)
            except InvalidInput as error:
                yield Sample(None, key, error=error)

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        scale = 1.0
        if isinstance(value, dict) and value.keys() | {"scale"} == {"numbers", "scale"}:
            value, scale = value["numbers"], value.get("scale", 1.0)
        if isinstance(value, str):
            value = value.split()
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list):
            raise InvalidInput(f"expected a {self.plain_form}", source=name)
        yield self._sample(value, "", scale)

    def _sample(self, numbers: Sequence[Any], key: str, scale: Any = 1.0) -> Sample:
        if len(numbers) > self.max_numbers:
            raise TooLarge(f"{len(numbers)} numbers; at most {self.max_numbers} are read")
        try:
            values = [float(scale) * float(v) for v in numbers]
        except (TypeError, ValueError, OverflowError):
            raise InvalidInput("something is no number", code="no_number") from None
        if not all(map(math.isfinite, values)):
            raise InvalidInput("a number is not finite", code="not_finite")
        warnings = (Doubt("all numbers are zero", "silent"),) if values and not any(values) else ()
        return Sample(values, key, warnings, {"numbers": len(values)})


class NumberProcessor(Processor):
    cost_unit = "numbers"
    batch_cost = 400

    def cost(self, sample: Sample) -> int:
        return max(1, len(sample.data))

    def prepare(self, sample: Sample) -> Tensor:
        if not sample.data:
            raise InvalidInput("no numbers; at least 1 is needed", code="too_short")
        if 404.0 in sample.data:
            raise KeyError("secret content of the file")
        return torch.tensor(sample.data, dtype=torch.float64)

    def pad(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(f) for f in features])
        # Padding that would show in any embedding it leaked to.
        values = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True, padding_value=-12345.0)
        return {"values": values, "mask": torch.arange(values.shape[1]) < lengths[:, None]}

    def reader(self) -> NumberReader:
        return NumberReader()

    def examples(self) -> list[Sample]:
        return [Sample([0.1, 0.2, 0.3], "")]


class NumberConfig(EmbeddingConfig):
    model_type = "arithmetic"
    hidden_size: int = DIMENSION
    num_hidden_layers: int = 1


class NumberModel(EmbeddingModel):
    """Numbers to states.

    Attributes:
        batches: Sizes of all forwards so far, the failed ones too.
        gate: A forward waits for it.
        delay: Seconds that a forward sleeps.
    """

    config_class = NumberConfig
    poolings = ("mean", "max", "sum")
    tasks = {"total": "total", "table": "table", "broken": "broken"}

    def __init__(self, config: NumberConfig) -> None:
        super().__init__(config)
        # Does nothing to the numbers, in float32 exactly and in narrower numbers nearly.
        self.mix = torch.nn.Linear(DIMENSION, DIMENSION, bias=False)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.delay = 0.0
        self.post_init()
        torch.nn.init.eye_(self.mix.weight)

    def forward(self, values: Tensor, mask: Tensor, output_hidden_states: bool = False) -> EncoderOutput:
        self.batches.append(len(values))
        self.entered.set()
        self.gate.wait(20)
        time.sleep(self.delay)
        if bool(((values == POISON) & mask).any()):
            raise RuntimeError("secret content of the batch")
        if bool(((values == HANG) & mask).any()):
            time.sleep(600)
        ones = torch.ones_like(values)
        count = mask.sum(1, keepdim=True).expand_as(values)
        last = self.mix(torch.stack([values, values.square(), ones, count / 1000], dim=-1).to(self.dtype))
        return EncoderOutput(last, mask, (-last, last) if output_hidden_states else None)

    def total(self, batch: dict[str, Tensor], samples: list[Sample]) -> list[Any]:
        return [{"total": float(v[m].sum())} for v, m in zip(batch["values"], batch["mask"], strict=True)]

    def table(self, batch: dict[str, Tensor], samples: list[Sample]) -> list[Any]:
        return [TaskFile(",".join(map(str, s.data)).encode(), "text/csv", f"{s.key}.csv") for s in samples]

    def broken(self, batch: dict[str, Tensor], samples: list[Sample]) -> list[Any]:
        raise RuntimeError("secret content of the task")


def write_samples(folder: Path) -> list[Path]:
    path = folder / "numbers.num"
    path.write_bytes(file_of([1, 2, 3], [4, 5]))
    return [path]


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Numbers changed by about a hundredth."""
    factors = 1 + 0.01 * torch.randn(len(sample.data), generator=generator, dtype=torch.float64)
    return replace(sample, data=[v * f for v, f in zip(sample.data, factors.tolist(), strict=True)])


class Numbers(Domain):
    """A domain whose functions are those of this module."""

    def resolve(self, reference: str) -> Any:
        return globals()[reference.partition(":")[2]]


def load(name: str, *, revision: str | None = None, device: str | None = None, dtype: str = "float32") -> Embedder:
    """Stand in for hub.from_pretrained; a name with 'slow' loads slowly, one with 'missing' fails."""
    if "missing" in name:
        raise UnknownModel(f"no model at /home/operator/{name}")
    if "slow" in name:
        time.sleep(0.5)
    domain = Numbers(
        name="numbers",
        title="Numbers",
        package="arithmetic_package",
        folder=Path(__file__).parent,
        suffixes=(".num",),
        references={"samples": "samples:write_samples", "augment": "augmenting:augment"},
    )
    system = System("arithmetic", "Arithmetic", "none", "arithmetic", {}, domain)
    model = NumberModel(NumberConfig()).to(getattr(torch, dtype))
    card = Card(name, Path(), {"license": "apache-2.0", "tags": ["numbers"]}, "# Card\nAdds numbers. Not more.")
    embedder = ArithmeticEmbedder(model, NumberProcessor(), system, Checkpoint(name, Path(), card, revision))
    if "unready" in name:
        embedder.warm_up_gate.clear()
    return embedder


class ArithmeticEmbedder(Embedder):
    """The real embedder, warmed with a known sample, and not before its gate opens."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.warm_up_gate = threading.Event()
        self.warm_up_gate.set()
        self.warmed = False

    def warm_up(self) -> int:
        self.warm_up_gate.wait(20)
        self.warmed = True
        dimension = int(self.embed([Source.from_bytes(file_of([1, 2]), "warm")]).vectors[0].shape[-1])
        self.model.batches.clear()
        self.model.entered.clear()
        return dimension

"""The embedder: a model with its processor and reader, from files to vectors."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hub.batching import batches_by_cost
from hub.cards import Card
from hub.catalog import Checkpoint, find_checkpoint
from hub.domain import System, system_of
from hub.doubts import codes_of
from hub.errors import InvalidCheckpoint, InvalidInput, UnsupportedOption
from hub.finetuning.model import class_for
from hub.modeling import EmbeddingModel, Layer
from hub.processing import Processor
from hub.quiet import without_progress_bars
from hub.reading import Reader, Sample, Source, Span

Vector = NDArray[np.float32]


@dataclass
class Embeddings:
    """Vectors and where each came from.

    Attributes:
        vectors: ``(samples, dimension)`` float32; for ``pooling="none"`` a list of ``(tokens, dimension)`` arrays.
        items: ``(source, key)`` of each vector; the key is empty where a file holds one sample.
        warnings: What to know about each accepted sample.
        facts: What was read with each sample: rate, spacing, size; by domain.
        errors: Inputs left out, when errors are collected.
    """

    vectors: Vector | list[Vector]
    items: list[tuple[str, str]]
    warnings: list[tuple[str, ...]] = field(default_factory=list)
    errors: list[InvalidInput] = field(default_factory=list)
    facts: list[Mapping[str, Any]] = field(default_factory=list, repr=False)

    @property
    def flags(self) -> list[tuple[str, ...]]:
        """Codes of each sample's warnings; see `hub.doubts.FLAGS`."""
        return [codes_of(sentences) for sentences in self.warnings]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.items)

    def __getitem__(self, index: int) -> Vector:
        """Return one sample's vector, or its ``(tokens, dimension)`` array."""
        return self.vectors[index]

    def __iter__(self) -> Iterator[Vector]:
        """Iterate over the samples' vectors."""
        return iter(self.vectors)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the ``(samples, dimension)`` array, so that numpy and scikit-learn take the object as it is."""
        if isinstance(self.vectors, list):
            raise TypeError("token states differ in length: index them one sample at a time")
        return np.array(self.vectors, dtype=dtype, copy=copy)


@dataclass(frozen=True)
class Prepared:
    """One sample on its way to the model: its features, its cost, and what it came from."""

    features: Any = field(repr=False)
    cost: int
    sample: Sample
    source: str


@dataclass(frozen=True)
class Intake:
    """The half of an embedder that meets inputs. It has no weights and can be pickled, so it works in any process.

    Attributes:
        reader: The domain's `Reader`.
        processor: The model's `Processor`.
        augment: The domain's mild change of a sample, ``(sample, generator) -> Sample``, where it has one.
    """

    reader: Reader
    processor: Processor
    augment: Callable[[Sample, torch.Generator], Sample] | None = None

    def read(self, value: Any, span: Span | None = None, name: str | None = None) -> Iterator[Sample]:
        """Yield the samples of one input.

        Args:
            value: A `Source`, a path, or the domain's plain form.
            span: Only this part of a recording.
            name: What messages call the input.

        Raises:
            InvalidInput: The input cannot be used; the error names it.
        """
        label = name or (value.name if isinstance(value, Source) else str(value) if _is_path(value) else "input")
        try:
            if isinstance(value, Sample):
                yield value
            elif isinstance(value, Source):
                yield from self.reader.read(value, span)
            elif isinstance(value, Path) or (isinstance(value, str) and self._names_a_file(value)):
                yield from self.reader.read(Source.from_path(value, name), span)
            else:
                yield from self.reader.parse(value, label)
        except InvalidInput as error:
            raise error.at(label) from None

    def _names_a_file(self, value: str) -> bool:
        return not self.reader.reads_text or Path(value).exists()

    def prepare(self, sample: Sample, source: str) -> Prepared:
        """Turn a sample to features.

        Raises:
            InvalidInput: The model cannot use the sample; the error names it.
        """
        sample.checked(source)
        try:
            features, cost = self.processor.prepare(sample), self.processor.cost(sample)
            if doubts := tuple(self.processor.doubts(sample)):
                sample = replace(sample, warnings=(*sample.warnings, *doubts))
            return Prepared(features, cost, sample, source)
        except InvalidInput as error:
            raise error.at(f"{source}[{sample.key}]" if sample.key else source) from None


class Embedder:
    """A model with its processor and reader, ready to use.

    The stages are public, because a server runs them apart: ``read``, ``prepare``, ``forward``.

    Attributes:
        model: The system's `EmbeddingModel`, in eval mode.
        processor: Its `Processor`.
        reader: The domain's `Reader`.
        card: The checkpoint's model card.
        name: What it was loaded as.
        folder: Of the checkpoint.
        revision: Commit it was loaded from, if it came from a Hub.
        system: The `System` it belongs to.
    """

    def __init__(self, model: EmbeddingModel, processor: Processor, system: System, checkpoint: Checkpoint) -> None:
        """Put the parts together; `from_pretrained` is the usual way."""
        self.model = model.eval()
        self.processor = processor
        self.reader: Reader = processor.reader()
        self.system = system
        self.card: Card = checkpoint.card
        self.name = checkpoint.name
        self.folder = checkpoint.folder
        self.revision = checkpoint.revision

    # --- stages -----------------------------------------------------------------------------------------------

    @property
    def intake(self) -> Intake:
        """All that meets inputs, without the model."""
        return Intake(self.reader, self.processor, self._augment)

    @cached_property
    def _augment(self) -> Callable[[Sample, torch.Generator], Sample] | None:
        # Once: loading looks for the domain's packages, and ``intake`` is asked for with each sample.
        domain = self.system.domain
        return domain.load("augment") if "augment" in domain.references else None

    def read(self, value: Any, span: Span | None = None, name: str | None = None) -> Iterator[Sample]:
        """Yield the samples of one input; see `Intake.read`."""
        return self.intake.read(value, span, name)

    def prepare(self, sample: Sample, source: str) -> Prepared:
        """Turn a sample to features; see `Intake.prepare`."""
        return self.intake.prepare(sample, source)

    def forward(self, prepared: Sequence[Prepared], pooling: str | None = None, layer: Layer = None) -> list[Vector]:
        """Run the model on one batch: a float32 vector (or token array) for each prepared sample."""
        outputs = self.model.embed(self._batch(prepared), pooling=pooling, layer=layer)
        return [output.float().cpu().numpy() for output in outputs]

    def run_batch(self, task: str, prepared: Sequence[Prepared]) -> list[Any]:
        """Run one of the model's further tasks on one batch: a JSON-able value or `TaskFile` for each sample.

        Raises:
            UnsupportedOption: The model declares no such task.
        """
        if task not in self.model.tasks:
            offered = ", ".join(self.model.tasks) or "none"
            raise UnsupportedOption(
                f"{self.name} offers no task {task!r}; it offers: {offered}", param="task", code="task_not_found"
            )
        method = getattr(self.model, self.model.tasks[task])
        with torch.inference_mode():
            return list(method(self._batch(prepared), [p.sample for p in prepared]))

    def _batch(self, prepared: Sequence[Prepared]) -> dict[str, torch.Tensor]:
        batch = self.processor.pad([p.features for p in prepared])
        dtype = self.model.dtype
        return {
            name: value.to(self.model.device, dtype if value.is_floating_point() else None)
            for name, value in batch.items()
        }

    # --- the whole way ----------------------------------------------------------------------------------------

    def embed(
        self,
        inputs: Any,
        *,
        pooling: str | None = None,
        layer: Layer = None,
        batch_cost: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
        on_input: Callable[[str], None] | None = None,
    ) -> Embeddings:
        """Embed files or plain values.

        Args:
            inputs: One input or an iterable of them: paths, `Source` objects, or the domain's plain form.
            pooling: ``"none"`` for token states, or one of ``model.poolings``; the checkpoint's default otherwise.
            layer: Index of a hidden state, ``"average"`` or ``"all"``; the checkpoint's default otherwise.
            batch_cost: Padded cost of one forward; the processor's ``batch_cost`` otherwise.
            on_error: ``"raise"`` at the first bad input, or ``"collect"`` bad inputs in ``errors`` and go on.
            on_input: Called with the name of each input once it has been read; for progress.

        Returns:
            Vectors in the order of the inputs, and of the samples in each.

        Raises:
            InvalidInput: An input cannot be used, and ``on_error`` is ``"raise"``.
            UnsupportedOption: The pooling or layer is not offered.
        """
        self.model.check_options(pooling, layer)
        budget = batch_cost or self.processor.batch_cost
        outputs: list[Vector] = []
        items: list[tuple[str, str]] = []
        warnings: list[tuple[str, ...]] = []
        errors: list[InvalidInput] = []
        facts: list[Mapping[str, Any]] = []
        prepared = self._prepared(_as_inputs(inputs), errors if on_error == "collect" else None, on_input)
        for window in _windows(prepared, 8 * budget):
            results: dict[int, Vector] = {}
            for batch in batches_by_cost([p.cost for p in window], budget):
                vectors = self.forward([window[i] for i in batch], pooling, layer)
                results.update(zip(batch, vectors, strict=True))
            outputs += [results[i] for i in range(len(window))]
            items += [(p.source, p.sample.key) for p in window]
            warnings += [p.sample.warnings for p in window]
            facts += [p.sample.metadata for p in window]
        if (pooling or self.model.config.pooling) == "none":
            return Embeddings(outputs, items, warnings, errors, facts)
        width = self.model.embedding_dimension(pooling, layer)
        table = np.stack(outputs) if outputs else np.zeros((0, width), np.float32)
        return Embeddings(table, items, warnings, errors, facts)

    def _prepared(
        self,
        inputs: Iterable[Any],
        errors: list[InvalidInput] | None,
        on_input: Callable[[str], None] | None,
    ) -> Iterator[Prepared]:
        """Read in order and prepare a few samples ahead in a thread, while the model computes."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare") as executor:
            pending: list[Any] = []
            stream = self._read_all(inputs, errors, on_input)
            while True:
                pending += [
                    executor.submit(self.prepare, sample, source)
                    for source, sample in itertools.islice(stream, 16 - len(pending))
                ]
                if not pending:
                    return
                try:
                    yield pending.pop(0).result()
                except InvalidInput as error:
                    if errors is None:
                        raise
                    errors.append(error)

    def _read_all(
        self,
        inputs: Iterable[Any],
        errors: list[InvalidInput] | None,
        on_input: Callable[[str], None] | None,
    ) -> Iterator[tuple[str, Sample]]:
        for number, value in enumerate(inputs):
            name = value.name if isinstance(value, Source) else str(value) if _is_path(value) else f"input[{number}]"
            try:
                for sample in self.read(value, name=name):
                    yield name, sample
            except InvalidInput as error:
                if errors is None:
                    raise
                errors.append(error)
            if on_input is not None:
                on_input(name)

    def run(self, task: str, inputs: Any) -> list[Any]:
        """Run one of the model's further tasks on files or plain values, one result a sample."""
        prepared = list(self._prepared(_as_inputs(inputs), None, None))
        results: dict[int, Any] = {}
        for batch in batches_by_cost([p.cost for p in prepared], self.processor.batch_cost):
            results.update(zip(batch, self.run_batch(task, [prepared[i] for i in batch]), strict=True))
        return [results[i] for i in range(len(prepared))]

    def prepared(self, inputs: Any, errors: list[InvalidInput] | None = None) -> Iterator[Prepared]:
        """Yield the prepared samples of files or plain values.

        Args:
            inputs: As for ``embed``.
            errors: Where inputs that cannot be used are noted, and left out.

        Raises:
            InvalidInput: An input cannot be used, and there is no place to note it.
        """
        return self._prepared(_as_inputs(inputs), errors, None)

    def neighbourhood(self, inputs: Any, *, stability: bool = False) -> list[dict[str, float]]:
        """Return for each sample how unlike the model's training data it is.

        Args:
            inputs: As for ``embed``.
            stability: Embed changed copies of each sample as well.

        Returns:
            See `hub.neighbourhood.Neighbourhood.judge`.

        Raises:
            UnsupportedOption: The model comes without a reference set.
            InvalidInput: An input cannot be used.
        """
        from hub.neighbourhood import VIEWS, judge_all

        return judge_all(self, inputs, views=VIEWS if stability else 0)

    def warm_up(self) -> int:
        """Send an example of the processor's, or a sample file of the domain's, through all stages.

        Returns:
            The embedding's dimension.
        """
        if examples := self.processor.examples():
            return int(self.embed(examples[0]).vectors[0].shape[-1])
        with tempfile.TemporaryDirectory() as folder:
            files = self.system.domain.load("samples")(Path(folder))
            return int(self.embed(files[0]).vectors[0].shape[-1])

    def random_twin(self, seed: int = 0) -> Embedder:
        """Return the same architecture and processor with freshly initialised weights: the honest baseline."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = type(self.model)(self.model.config).to(self.model.device, self.model.dtype)
        twin = Embedder(model, self.processor, self.system, Checkpoint(self.name, self.card.folder, self.card))
        twin.name = f"{self.name} (random)"
        return twin


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
) -> Embedder:
    """Load an embedder by built-in name, folder, or ``org/repo`` on the Hugging Face Hub.

    Args:
        name: See `hub.catalog.find_checkpoint`.
        revision: Branch, tag or commit of a repository.
        device: ``"cuda"`` where there is one, else ``"cpu"``, unless given.
        dtype: Of the weights in memory.

    Raises:
        UnknownModel: Nothing answers to this name.
        UnknownDomain: No installed domain knows its ``model_type``.
        MissingDependency: The domain's packages are not installed; the text holds the line that installs them.
        InvalidCheckpoint: Its files are damaged.
    """
    checkpoint = find_checkpoint(name, revision)
    system = system_of(checkpoint.model_type)
    model_class = class_for(system.load("model"), checkpoint.folder)
    model = load_part(model_class, checkpoint.folder, dtype=dtype)
    processor = load_part(system.load("processor"), checkpoint.folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Embedder(model.to(device), processor, system, checkpoint)


def load_part(cls: Any, folder: Path, **options: Any) -> Any:
    """Call a transformers class's own ``from_pretrained`` on a folder, with errors that name the folder.

    Raises:
        InvalidCheckpoint: A file is missing or damaged, or its tensors do not fit.
    """
    try:
        with without_progress_bars():
            if not issubclass(cls, EmbeddingModel):
                return cls.from_pretrained(folder, **options)
            # Without it, a folder with weights under another name would have its pytorch_model.bin unpickled.
            part, loading = cls.from_pretrained(folder, output_loading_info=True, use_safetensors=True, **options)
    except Exception as error:  # transformers, safetensors and strict configs each raise their own kinds
        raise InvalidCheckpoint(f"{folder} could not be loaded as {cls.__name__}: {error}") from error
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise InvalidCheckpoint(
            f"{folder} lacks {len(missing)} tensors of {cls.__name__}, for example {', '.join(missing[:3])}"
        )
    return part


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path)


def _as_inputs(inputs: Any) -> Iterable[Any]:
    if isinstance(inputs, str | Path | Source | Sample | dict):
        return [inputs]
    return inputs


def _windows(prepared: Iterable[Prepared], cost: int) -> Iterator[list[Prepared]]:
    """Cut a stream to windows of at most this cost, so that batches are sorted by length in bounded memory."""
    window: list[Prepared] = []
    total = 0
    for item in prepared:
        if window and total + item.cost > cost:
            yield window
            window, total = [], 0
        window.append(item)
        total += item.cost
    if window:
        yield window

"""Fine-tuning inside one graph: classes of its nodes, and links between them.

Here the parts of a split share one graph, which a manifest of samples cannot say: all nodes pass messages, and the
labels of some are hidden.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from domains.graphs.processing import GraphFeatures
from hub.errors import InvalidInput, UnsupportedOption
from hub.finetuning.options import FinetuneOptions
from hub.finetuning.run import Start
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Sample, Source

MODES = ("frozen", "full")
MASKS = ("train_mask", "val_mask", "test_mask")


@dataclass(frozen=True)
class Schedule:
    """How to train: full-batch steps of Adam.

    Attributes:
        mode: ``frozen`` (the head alone) or ``full``.
        epochs: Steps at most; the one with the best validation score is kept.
        learning_rate: Of the encoder.
        head_learning_rate: Of the head.
        weight_decay: Of both.
        seed: Of initialisation, dropout and random parts.
    """

    mode: str = "frozen"
    epochs: int = 300
    learning_rate: float = 1e-3
    head_learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UnsupportedOption on a value that cannot be."""
        if self.mode not in MODES:
            raise UnsupportedOption(f"mode {self.mode!r} is none of {', '.join(MODES)}", param="mode")
        if self.epochs < 1:
            raise UnsupportedOption(f"epochs is {self.epochs}; it must be at least 1", param="epochs")


def classify_nodes(
    model: str | Path, file: Path, output: Path, schedule: Schedule, fresh: bool = False
) -> dict[str, float]:
    """Train a head on the labelled nodes of one graph and write a checkpoint that labels nodes (``label_tokens``).

    Args:
        model: Built-in name, folder or repository.
        file: One graph with node labels ``y`` and the masks of its parts, as ``.npz`` or Planetoid files hold them.
        output: Folder to write; must not exist or be empty.
        schedule: How.
        fresh: Initialise the encoder anew.

    Returns:
        Accuracy on the parts ``valid`` and ``test``, of the step with the best on ``valid``.

    Raises:
        InvalidInput: The graph has no labels or parts.
        UnsupportedOption: The folder is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise UnsupportedOption(f"{output} is not empty; give a new folder", param="output_dir")
    start = Start.find(model)
    sample = one_graph(start, file)
    data = sample.data
    if "y" not in data or not all(mask in data for mask in MASKS) or data.y.ndim != 1:
        raise InvalidInput(
            "the graph has no node labels 'y' with train_mask, val_mask and test_mask",
            code="no_labels",
            source=str(file),
        )
    names, classes = torch.unique(data.y, return_inverse=True)
    torch.manual_seed(schedule.seed)
    tuned = start.build(FinetuneOptions("frames", schedule.mode), [str(n.item()) for n in names], fresh)
    batch = _batch(start, start.processor.prepare(sample), tuned)
    train, valid, test = (data[mask].to(tuned.device) for mask in MASKS)
    classes = classes.to(tuned.device)
    states = _states(tuned, batch)
    spread = states.std(0, correction=0)
    tuned.task_head.centre.copy_(states.mean(0))
    tuned.task_head.scale.copy_(spread.clamp(min=1e-3 * float(spread.max())).clamp(min=1e-12))

    def logits() -> Tensor:
        return tuned.task_head(states if schedule.mode == "frozen" else tuned.token_states(batch)[0][0])

    def loss() -> Tensor:
        return F.cross_entropy(logits()[train], classes[train])

    def accuracy(part: Tensor) -> float:
        return float((logits()[part].argmax(1) == classes[part]).float().mean())

    _train(tuned, tuned.task_head, schedule, loss, lambda: accuracy(valid))
    with torch.no_grad():
        results = {"valid": accuracy(valid), "test": accuracy(test)}
    save_checkpoint(output, tuned, start.processor)
    metadata = card_metadata(start.system, license=str(start.card.metadata.get("license", "other")), name=output.name)
    write_card(
        output,
        metadata,
        f"# {output.name}\n\n{start.name}, {'from scratch' if fresh else schedule.mode}, trained to label the nodes of "
        f"`{file.name}` ({int(train.sum())} labelled nodes). Accuracy: validation {results['valid']:.4f}, test "
        f"{results['test']:.4f}.\n",
    )
    return results


def predict_links(model: str | Path, file: Path, schedule: Schedule, fresh: bool = False) -> dict[str, float]:
    """Hold out a tenth of a graph's edges for the test and a twentieth for validation, and learn to find them.

    The held-out edges are hidden from the encoder in both directions. A pair is scored by a linear layer on the product
    of its nodes' states; as many random pairs without an edge stand against the edges.

    Args:
        model: Built-in name, folder or repository.
        file: One graph.
        schedule: How.
        fresh: Initialise the encoder anew.

    Returns:
        ``auc`` and ``average_precision`` on the test edges.

    Raises:
        InvalidInput: The graph has too few edges.
    """
    start = Start.find(model)
    sample = one_graph(start, file)
    torch.manual_seed(schedule.seed)
    generator = torch.Generator().manual_seed(schedule.seed)
    encoder: Any = start.system.load("model")
    config = encoder.config_class.from_pretrained(start.folder)
    tuned = encoder(config) if fresh else encoder.from_pretrained(start.folder)
    edges = sample.data.edge_index.t()
    unique = edges[edges[:, 0] < edges[:, 1]]
    if len(unique) < 20:
        raise InvalidInput(f"{len(unique)} edges; at least 20 are needed to hold some out", source=str(file))
    unique = unique[torch.randperm(len(unique), generator=generator)]
    tests, valids = math.ceil(len(unique) / 10), math.ceil(len(unique) / 20)
    parts = {"test": unique[:tests], "valid": unique[tests : tests + valids], "train": unique[tests + valids :]}
    pairs = {n: _with_others(e, edges, int(sample.data.num_nodes), generator) for n, e in parts.items()}
    seen = sample.data.clone()
    seen.edge_index = torch.cat([parts["train"], parts["train"].flip(1)]).t()
    batch = _batch(start, start.processor.prepare(Sample(seen)), tuned)
    head = nn.Linear(tuned.config.hidden_size, 1).to(tuned.device)
    states = _states(tuned.eval(), batch)
    # States are not normalised and differ in size from encoder to encoder.
    scale = states.square().mean().sqrt().clamp(min=1e-12)

    def scores(part: str) -> tuple[Tensor, Tensor]:
        ends, labels = (t.to(tuned.device) for t in pairs[part])
        now = (states if schedule.mode == "frozen" else tuned.token_states(batch)[0][0]) / scale
        return head(now[ends[:, 0]] * now[ends[:, 1]])[:, 0], labels

    def loss() -> Tensor:
        return F.binary_cross_entropy_with_logits(*scores("train"))

    def measure(part: str) -> dict[str, float]:
        given, labels = (t.detach().cpu().numpy() for t in scores(part))
        return {
            "auc": float(roc_auc_score(labels, given)),
            "average_precision": float(average_precision_score(labels, given)),
        }

    _train(tuned, head, schedule, loss, lambda: measure("valid")["auc"])
    with torch.no_grad():
        return measure("test")


def one_graph(start: Start, file: Path) -> Sample:
    """Return the one graph of a file.

    Raises:
        InvalidInput: It holds several.
    """
    samples = list(start.processor.reader().read(Source.from_path(file)))
    if len(samples) != 1:
        raise InvalidInput(f"{len(samples)} graphs; one is needed", code="several_graphs", source=str(file))
    return samples[0].checked(str(file))


def _batch(start: Start, features: GraphFeatures, model: Any) -> dict[str, Tensor]:
    return {name: tensor.to(model.device) for name, tensor in start.processor.pad([features]).items()}


@torch.no_grad()
def _states(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model.eval().token_states(batch)[0][0].float()


def _with_others(edges: Tensor, all_edges: Tensor, nodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return edges and as many random pairs that are none, with their labels."""
    known = all_edges[:, 0] * nodes + all_edges[:, 1]
    drawn = torch.randint(nodes, (8 * len(edges) + 64, 2), generator=generator)
    absent = drawn[(drawn[:, 0] != drawn[:, 1]) & ~torch.isin(drawn[:, 0] * nodes + drawn[:, 1], known)][: len(edges)]
    labels = torch.cat([torch.ones(len(edges)), torch.zeros(len(absent))])
    return torch.cat([edges, absent]), labels


def _train(
    model: Any, head: nn.Module, schedule: Schedule, loss: Callable[[], Tensor], score: Callable[[], float]
) -> None:
    """Take the steps and go back to the best by validation score (of equal ones the last)."""
    groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": schedule.head_learning_rate}]
    heads = {id(p) for p in head.parameters()}
    if schedule.mode == "full":
        encoder = [p for p in model.parameters() if id(p) not in heads]
        groups.append({"params": encoder, "lr": schedule.learning_rate})
    optimizer = torch.optim.Adam(groups, weight_decay=schedule.weight_decay)
    best, kept = -math.inf, (model.state_dict(), head.state_dict())
    for _ in range(schedule.epochs):
        model.train(schedule.mode == "full")
        head.train()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        model.eval()
        head.eval()
        with torch.no_grad():
            reached = score()
        if reached >= best:
            best, kept = reached, copy.deepcopy((model.state_dict(), head.state_dict()))
    model.load_state_dict(kept[0])
    head.load_state_dict(kept[1])

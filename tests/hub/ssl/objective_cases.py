"""One case for each objective: inputs, the loss, and how to take a part of the batch.

Shared by the gradient, permutation, autocast and two-process tests. This file is also what the
two-process worker imports, so it must not need pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hub import ssl

N, D = 8, 6
Inputs = dict[str, Tensor]
# The loss, and the state of the module afterwards if there is one.
Result = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """An objective ready to be called.

    Attributes:
        name: of the objective.
        make: draws float64 inputs of a whole batch.
        run: computes the loss, with fresh modules.
        trained: names of the inputs that get gradient.
        axes: batch axis of each input; inputs left out are the same on every process.
        select: takes samples of the batch, where an axis alone does not say how.
        gradient: "derivative" of the value; "stopped" if part of it is held fixed; "own" if a test
            of its own looks at it.
    """

    name: str
    make: Callable[[torch.Generator], Inputs]
    run: Callable[[Inputs], Result]
    trained: tuple[str, ...]
    axes: dict[str, int] = field(default_factory=dict)
    select: Callable[[Inputs, Tensor], Inputs] | None = None
    gradient: str = "derivative"

    def inputs(self, seed: int = 0) -> Inputs:
        return self.make(torch.Generator().manual_seed(seed))

    def take(self, inputs: Inputs, index: Tensor) -> Inputs:
        if self.select is not None:
            return self.select(inputs, index)
        return {
            name: value.index_select(self.axes[name], index) if name in self.axes else value
            for name, value in inputs.items()
        }

    def loss(self, inputs: Inputs) -> Tensor:
        return self.run(inputs)[0]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(123)


def draw(generator: torch.Generator, **shapes: tuple[int, ...]) -> Inputs:
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def wide(x: Tensor) -> torch.dtype:
    """Precision of a module beside inputs like `x`: modules stay in float32 under autocast."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def unit_queue(generator: torch.Generator, rows: int = 10) -> Tensor:
    return F.normalize(torch.randn(rows, D, generator=generator, dtype=torch.float64), dim=1)


def pair(name: str, function: Callable[..., Tensor], *names: str, gradient: str = "derivative") -> Case:
    """An objective of `(batch, dim)` inputs, all with gradient."""
    names = names or ("z0", "z1")
    return Case(
        name,
        lambda g: draw(g, **dict.fromkeys(names, (N, D))),
        lambda x: (function(*(x[key] for key in names)), {}),
        trained=names,
        axes=dict.fromkeys(names, 0),
        gradient=gradient,
    )


def student_teacher(name: str, function: Callable[..., Tensor]) -> Case:
    """An objective of two predictions and two fixed targets."""
    names = ("p0", "p1", "z0", "z1")
    return Case(
        name,
        lambda g: draw(g, **dict.fromkeys(names, (N, D))),
        lambda x: (function(*(x[key] for key in names)), {}),
        trained=("p0", "p1"),
        axes=dict.fromkeys(names, 0),
    )


def many_views(name: str, function: Callable[..., Tensor], gradient: str = "derivative") -> Case:
    names = ("z0", "z1", "z2")
    return Case(
        name,
        lambda g: draw(g, **dict.fromkeys(names, (N, D))),
        lambda x: (function([x[key] for key in names]), {}),
        trained=names,
        axes=dict.fromkeys(names, 0),
        gradient=gradient,
    )


def _labelled(generator: torch.Generator) -> Inputs:
    # Three views of each sample, sample-major, so that any part of the batch keeps its views.
    features = torch.randn(N, 3, D, generator=generator, dtype=torch.float64)
    return {"features": features, "index": torch.arange(N)}


def _run_labelled(x: Inputs) -> Result:
    loss = ssl.multi_view_contrastive(
        x["features"].flatten(end_dim=1), x["index"].repeat_interleave(3), temperature=0.3
    )
    return loss, {}


def _queued(generator: torch.Generator) -> Inputs:
    x = draw(generator, query=(N, D), key=(N, D), hard=(N, 3, D))
    x["hard"] = F.normalize(x["hard"], dim=2)
    return x | {"queue": unit_queue(generator)}


def _run_queued(x: Inputs) -> Result:
    queue = ssl.FeatureQueue(10, D, generator=seeded()).to(wide(x["query"]))
    queue.bank.copy_(x["queue"])
    loss = ssl.queue_contrastive(x["query"], x["key"], queue.rows(), temperature=0.3, hard_negatives=x["hard"])
    queue.push(x["key"])
    return loss, {"pointer": queue.pointer, "bank": queue.bank}


def _run_individual(x: Inputs) -> Result:
    module = ssl.IndividualTemperatures(20).to(wide(x["z0"]))
    module.s.copy_(x["s"])
    loss = module(x["z0"], x["z1"], x["index"], epoch=1)
    return loss, dict(module.state_dict())


def _individual(generator: torch.Generator) -> Inputs:
    index = torch.randperm(20, generator=generator)[:N]
    state = torch.rand(20, generator=generator, dtype=torch.float64) + 0.5
    return draw(generator, z0=(N, D), z1=(N, D)) | {"index": index, "s": state}


def _sce(generator: torch.Generator) -> Inputs:
    return draw(generator, query=(N, D), key=(N, D)) | {"queue": unit_queue(generator)}


def _run_sce(x: Inputs, contrast_batch: bool) -> Result:
    loss = ssl.similarity_contrastive(x["query"], x["key"], x["queue"], contrast_batch=contrast_batch)
    return loss, {}


def _mixed(generator: torch.Generator) -> Inputs:
    # Mixing partners lie within one process: samples 0..4 and 5..7 are the two test shards.
    parts = [torch.randperm(5, generator=generator), 5 + torch.randperm(3, generator=generator)]
    return draw(generator, z0=(N, D), z1=(N, D), zm=(N, D)) | {"permutation": torch.cat(parts)}


def _take_mixed(x: Inputs, index: Tensor) -> Inputs:
    place = torch.full((N,), -1)
    place[index] = torch.arange(len(index))
    taken = {name: x[name][index] for name in ("z0", "z1", "zm")}
    return taken | {"permutation": place[x["permutation"][index]]}


def _run_mixed(x: Inputs) -> Result:
    return ssl.mixed_barlow_twins(x["z0"], x["z1"], x["zm"], x["permutation"], alpha=0.3), {}


def _run_dino(x: Inputs) -> Result:
    centre = ssl.Centre(D).to(wide(x["teacher"]))
    centre.value.copy_(x["centre"])
    loss = ssl.dino(x["student"], x["teacher"], centre.value, teacher_temperature=0.2)
    centre.update(x["teacher"])
    return loss, dict(centre.state_dict())


def _dino(generator: torch.Generator) -> Inputs:
    return draw(generator, student=(4, N, D), teacher=(2, N, D), centre=(D,))


def _ibot(generator: torch.Generator) -> Inputs:
    mask = torch.rand(N, 3, 3, generator=generator) < 0.5
    mask[0] = False  # an image without a masked patch
    count = int(mask.sum())
    return draw(generator, student=(count, D), teacher=(count, D), centre=(D,)) | {"mask": mask}


def _take_ibot(x: Inputs, index: Tensor) -> Inputs:
    image = x["mask"].flatten(1).nonzero()[:, 0]
    rows = torch.cat([(image == number).nonzero()[:, 0] for number in index])
    return {
        "student": x["student"][rows],
        "teacher": x["teacher"][rows],
        "mask": x["mask"][index],
        "centre": x["centre"],
    }


def _run_ibot(x: Inputs) -> Result:
    centre = ssl.Centre(D).to(wide(x["teacher"]))
    centre.value.copy_(x["centre"])
    loss = ssl.masked_patch_distillation(x["student"], x["teacher"], x["mask"], centre.value, teacher_temperature=0.2)
    centre.update(x["teacher"])
    return loss, dict(centre.state_dict())


def _run_self_patch(x: Inputs) -> Result:
    return ssl.self_patch(x["student"], x["teacher"], x["centre"], teacher_temperature=0.2), {}


def _swav(generator: torch.Generator) -> Inputs:
    x = draw(generator, high=(2, N, 5), low=(3, N, 5), queue=(2, N, 5))
    return {name: value.tanh() for name, value in x.items()}


def _run_swav(x: Inputs) -> Result:
    return ssl.swav(x["high"], x["low"], x["queue"], epsilon=0.2), {}


def _cluster(generator: torch.Generator) -> Inputs:
    return draw(generator, crops=(2, N, D), views=(3, N, D)) | {"index": torch.arange(N)}


def _run_cluster(x: Inputs) -> Result:
    module = ssl.DeepClusterV2(N, D, crops=2, prototypes=(3, 4)).to(wide(x["views"]))
    module.remember(x["crops"], x["index"])
    module.cluster(generator=seeded())
    return module.loss(x["views"], x["index"]), dict(module.state_dict())


def _masked(generator: torch.Generator) -> Inputs:
    x = draw(generator, prediction=(N, 5, D), target=(N, 5, D))
    return x | {"mask": torch.rand(N, 5, generator=generator) < 0.4}


def masked(name: str, function: Callable[..., Tensor]) -> Case:
    return Case(
        name,
        _masked,
        lambda x: (function(x["prediction"], x["target"], x["mask"]), {}),
        trained=("prediction",),
        axes={"prediction": 0, "target": 0, "mask": 0},
    )


def _run_codebook(x: Inputs, update: str) -> Result:
    book = ssl.Codebook(5, D, generator=seeded(), update=update, decay=0.7).to(wide(x["x"]))
    quantized = book(x["x"], x["valid"])
    state = {name: value.detach() for name, value in book.state_dict().items()}
    loss = quantized.commitment_loss + 0.1 * quantized.perplexity + quantized.usage
    return loss, state


def _codebook(generator: torch.Generator) -> Inputs:
    return draw(generator, x=(N, 4, D)) | {"valid": torch.rand(N, 4, generator=generator) < 0.7}


def _run_codebook_gradient(x: Inputs) -> Result:
    book = ssl.Codebook(5, D, generator=seeded()).to(wide(x["x"]))
    book.weight.data = x["codes"].detach()
    codes = book.weight
    quantized = book(x["x"], x["valid"])
    if not x["codes"].requires_grad:
        return quantized.codebook_loss, {}
    # Hand the parameter's gradient on to the input that it was filled from.
    (gradient,) = torch.autograd.grad(quantized.codebook_loss, [codes])
    surrogate = (gradient * x["codes"]).sum()
    return quantized.codebook_loss.detach() + surrogate - surrogate.detach(), {}


def _code_prediction(generator: torch.Generator) -> Inputs:
    x = draw(generator, projected=(N, 2, D), embeddings=(2, 7, D))
    return x | {"targets": torch.randint(7, (N, 2), generator=generator)}


def _run_code_prediction(x: Inputs) -> Result:
    logits = ssl.code_logits(x["projected"], x["embeddings"], temperature=0.5)
    return ssl.code_prediction(logits, x["targets"]), {}


def _run_direct_predictor(x: Inputs) -> Result:
    module = ssl.DirectPredictor(D).to(wide(x["x"]))
    module.update(x["x"].detach())
    module.update(x["target"])
    return ssl.latent_prediction(module(x["x"]), x["target"]), dict(module.state_dict())


CASES = (
    pair("nt_xent", partial(ssl.nt_xent, temperature=0.3)),
    Case("multi_view_contrastive", _labelled, _run_labelled, ("features",), {"features": 0, "index": 0}),
    pair("info_nce", partial(ssl.info_nce, temperature=0.3)),
    student_teacher("moco_v3", partial(ssl.moco_v3, temperature=0.3)),
    pair("dcl", partial(ssl.dcl, temperature=0.3)),
    pair("dclw", partial(ssl.dclw, temperature=0.3), gradient="stopped"),
    Case("queue_contrastive", _queued, _run_queued, ("query", "key", "hard"), {"query": 0, "key": 0, "hard": 0}),
    Case(
        "individual_temperatures",
        _individual,
        _run_individual,
        ("z0", "z1"),
        {"z0": 0, "z1": 0, "index": 0},
        gradient="stopped",
    ),
    Case(
        "similarity_contrastive",
        _sce,
        partial(_run_sce, contrast_batch=True),
        ("query",),
        {"query": 0, "key": 0},
    ),
    Case(
        "similarity_contrastive_queue",
        _sce,
        partial(_run_sce, contrast_batch=False),
        ("query",),
        {"query": 0, "key": 0},
    ),
    many_views("groco", partial(ssl.groco, hardest=3), gradient="stopped"),
    many_views("cacr", ssl.cacr),
    pair("barlow_twins", ssl.barlow_twins),
    pair("barlow_twins_unbiased", partial(ssl.barlow_twins, unbiased=True)),
    Case("mixed_barlow_twins", _mixed, _run_mixed, ("z0", "z1", "zm"), select=_take_mixed),
    pair("vicreg", ssl.vicreg),
    pair("koleo", ssl.koleo, "z0"),
    pair("sigreg", lambda z: ssl.sigreg(z, generator=seeded(), projections=16), "z0"),
    Case(
        "lejepa",
        lambda g: draw(g, views=(3, N, D)),
        lambda x: (ssl.lejepa(x["views"], global_views=2, generator=seeded(), projections=16), {}),
        ("views",),
        {"views": 1},
    ),
    pair("negative_cosine", ssl.negative_cosine),
    student_teacher("byol", ssl.byol),
    student_teacher("simsiam", ssl.simsiam),
    Case(
        "direct_predictor",
        lambda g: draw(g, x=(N, D), target=(N, D)),
        _run_direct_predictor,
        ("x",),
        {"x": 0, "target": 0},
        gradient="own",
    ),
    Case("dino", _dino, _run_dino, ("student",), {"student": 1, "teacher": 1}),
    Case("masked_patch_distillation", _ibot, _run_ibot, ("student",), select=_take_ibot),
    Case(
        "self_patch",
        lambda g: draw(g, student=(N, 4, D), teacher=(N, 4, D), centre=(D,)),
        _run_self_patch,
        ("student",),
        {"student": 0, "teacher": 0},
    ),
    Case("swav", _swav, _run_swav, ("high", "low"), {"high": 1, "low": 1, "queue": 1}, gradient="stopped"),
    Case("deep_cluster", _cluster, _run_cluster, ("views",), {"crops": 1, "views": 1, "index": 0}),
    masked("masked_l1", ssl.masked_l1),
    masked("masked_mse", ssl.masked_mse),
    masked("masked_patch_mse", ssl.masked_patch_mse),
    pair("scaled_cosine_error", partial(ssl.scaled_cosine_error, gamma=1.5)),
    Case(
        "codebook_commitment",
        _codebook,
        partial(_run_codebook, update="gradient"),
        ("x",),
        {"x": 0, "valid": 0},
    ),
    Case("codebook_ema", _codebook, partial(_run_codebook, update="ema"), ("x",), {"x": 0, "valid": 0}),
    Case(
        "codebook_gradient",
        lambda g: _codebook(g) | draw(g, codes=(5, D)),
        _run_codebook_gradient,
        ("codes",),
        {"x": 0, "valid": 0},
    ),
    Case(
        "code_prediction",
        _code_prediction,
        _run_code_prediction,
        ("projected", "embeddings"),
        {"projected": 0, "targets": 0},
    ),
    Case(
        "latent_prediction",
        lambda g: draw(g, prediction=(N, 3, D), target=(N, 3, D)),
        lambda x: (ssl.latent_prediction(x["prediction"], x["target"], normalise_target=True), {}),
        ("prediction",),
        {"prediction": 0, "target": 0},
    ),
)

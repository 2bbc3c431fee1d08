from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import hub
from hub.configuration import EmbeddingConfig
from hub.errors import UnsupportedOption
from hub.finetuning.model import HEAD, task_model_class
from hub.finetuning.modes import layer_depths, merge, parameter_groups, prepare
from hub.finetuning.options import FinetuneOptions
from hub.finetuning.run import Start, finetune
from hub.finetuning.task import HeadSpec
from hub.modeling import EmbeddingModel, EncoderOutput


class StackConfig(EmbeddingConfig):
    model_type = "test_stack"
    hidden_size: int = 4
    num_hidden_layers: int = 3


class Stack(EmbeddingModel):
    config_class = StackConfig

    def __init__(self, config: StackConfig) -> None:
        super().__init__(config)
        self.input = nn.Linear(1, 4)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(3))
        self.final = nn.Linear(4, 4)
        self.output = nn.Linear(4, 4)  # shares its last name with the head's layer
        self.post_init()

    def forward(self, values: torch.Tensor, mask: torch.Tensor, output_hidden_states: bool = False) -> EncoderOutput:
        states = self.input(values.unsqueeze(-1))
        for layer in self.layers:
            states = layer(states)
        return EncoderOutput(self.output(self.final(states)), mask)


def stack(**head: object) -> EmbeddingModel:
    config = StackConfig()
    config.finetuned = HeadSpec("classification", ("a", "b"), "mean", **head).to_dict()
    torch.manual_seed(0)
    return task_model_class(Stack)(config)


BATCH = {"values": torch.linspace(-1, 1, 12).view(2, 6), "mask": torch.arange(6) < torch.tensor([[6], [4]])}


def options(mode: str, **values: object) -> FinetuneOptions:
    return FinetuneOptions.for_mode("classification", mode, **values)


def rates(model: EmbeddingModel, chosen: FinetuneOptions) -> dict[str, tuple[float, float]]:
    by_id = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, chosen) for p in g["params"]}
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


def test_layer_wise_rates_by_value() -> None:
    chosen = options("layerwise", learning_rate=1.0, head_learning_rate=7.0, layer_decay=0.5, weight_decay=0.1)
    model = stack()
    prepare(model, chosen)
    found = rates(model, chosen)
    # input, three layers, what comes after them: depths 0 to 4.
    for name, rate in {
        "input.weight": 1 / 16, "layers.0.0.weight": 1 / 8, "layers.1.0.weight": 1 / 4, "layers.2.0.weight": 1 / 2,
        "final.weight": 1.0, "output.weight": 1.0, "task_head.output.weight": 7.0,
    }.items():  # fmt: skip
        assert found[name] == (rate, 0.1), name
        assert found[name.replace("weight", "bias")] == (rate, 0.0)
    assert len(found) == sum(1 for _ in model.parameters())


def test_full_has_one_rate_for_the_encoder_and_frozen_none() -> None:
    for mode, wanted in (("full", {0.5, 2.0}), ("frozen", {2.0})):
        chosen = options(mode, learning_rate=0.5, head_learning_rate=2.0)
        model = stack()
        prepare(model, chosen)
        assert {rate for rate, _ in rates(model, chosen).values()} == wanted


def test_depths_without_a_list_of_layers(toy_checkpoint) -> None:
    model = Start.find(toy_checkpoint).build(options("full"), ("a", "b"), fresh=False)
    assert layer_depths(model) == {"input.weight": 0, "input.bias": 0, "layer.weight": 1, "layer.bias": 1}


def test_lora_learns_adapters_and_head_alone_and_merges() -> None:
    chosen = options("lora", lora_rank=2)
    model = stack().eval()
    names = [name for name, _ in model.named_parameters()]
    before = model.logits(BATCH)[0]
    prepare(model, chosen)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(n.startswith(HEAD) or "lora_" in n for n in learning)
    assert sum("lora_A" in n for n in learning) == 6 and not any("lora" in n for n in learning if n.startswith(HEAD))
    torch.testing.assert_close(model.logits(BATCH)[0], before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in learning:
                parameter.normal_(0, 0.3)
    adapted = model.logits(BATCH)[0]
    merge(model)
    assert [name for name, _ in model.named_parameters()] == names
    torch.testing.assert_close(model.logits(BATCH)[0], adapted)
    assert (adapted - before).abs().max() > 0.01


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_frozen_leaves_the_encoder_bit_for_bit(sets, quick, toy_checkpoint, tmp_path) -> None:
    finetune(toy_checkpoint, sets.levels(60), tmp_path / "out", {**quick, "task": "classification", "epochs": 3})
    found, before = weights(tmp_path / "out"), weights(toy_checkpoint)
    encoder = {name for name in found if not name.startswith(HEAD)}
    assert encoder == {"input.weight", "input.bias", "layer.weight", "layer.bias"}
    for name in encoder:
        assert torch.equal(found[name], before[f"encoder.{name}"])
    vectors = [hub.from_pretrained(f).embed({"numbers": [1, 2, 3]}).vectors for f in (tmp_path / "out", toy_checkpoint)]
    assert (vectors[0] == vectors[1]).all()


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_what_was_trained_is_what_loads(sets, quick, toy_checkpoint, tmp_path, mode) -> None:
    outcome = finetune(
        toy_checkpoint,
        sets.levels(60),
        tmp_path / "out",
        {**quick, "task": "classification", "mode": mode, "epochs": 3},
    )
    found = weights(tmp_path / "out")
    assert not any("lora" in name or "base_layer" in name for name in found)
    assert not torch.equal(found["layer.weight"], weights(toy_checkpoint)["encoder.layer.weight"])
    model = hub.from_pretrained(tmp_path / "out").model
    with torch.inference_mode():
        assert torch.equal(model.logits(BATCH)[0], outcome.model.logits(BATCH)[0])


def test_from_scratch_starts_elsewhere(sets, quick, toy_checkpoint, tmp_path) -> None:
    chosen = options("full", seed=3)
    fresh = Start.find(toy_checkpoint).build(chosen, ("a", "b"), fresh=True)
    assert not torch.equal(fresh.layer.weight, weights(toy_checkpoint)["encoder.layer.weight"])


def test_options_that_cannot_be_are_named(toy_checkpoint) -> None:
    for values, text in (
        ({"mode": "half"}, "mode 'half' is none of frozen, full, layerwise, lora"),
        ({"task": "guessing"}, "task 'guessing'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"augment": True}, "frozen encoder"),
        ({"task": "regression", "class_weights": "balanced"}, "mean nothing"),
        ({"speed": 3}, "no option 'speed'"),
    ):
        with pytest.raises(UnsupportedOption, match=text):
            FinetuneOptions.for_mode(**{"task": "classification", "mode": "frozen", **values})
    start = Start.find(toy_checkpoint)
    for task, pooling, text in (
        ("classification", "none", "an output a sample"),
        ("frames", "mean", "an output a token"),
        ("classification", "mean_std", "not offered"),
    ):
        with pytest.raises(UnsupportedOption, match=text):
            start.build(FinetuneOptions.for_mode(task, "frozen", pooling=pooling), ("a",), fresh=False)

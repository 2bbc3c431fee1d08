"""Which parameters learn, and how fast: frozen, full, layer-wise decay, LoRA."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from hub.errors import UnsupportedOption
from hub.finetuning.model import HEAD, TaskModel
from hub.finetuning.options import FinetuneOptions

ADAPTER = "default"
LORA_SCALE = 2
"""Adapters count ``LORA_SCALE`` times: their alpha is that times the rank, a common choice."""


def prepare(model: TaskModel, options: FinetuneOptions) -> None:
    """Freeze what does not learn; in LoRA mode put adapters beside the encoder's linear layers.

    Raises:
        UnsupportedOption: LoRA is asked of an encoder without a linear layer.
    """
    if options.mode == "lora":
        from peft import LoraConfig, LoraModel

        # By exact type: attention modules of PyTorch read the weights of their own kind of linear layer directly,
        # past any adapter.
        names = [n for n, m in model.named_modules() if type(m) is nn.Linear and not n.startswith(HEAD)]
        if not names:
            raise UnsupportedOption("this encoder has no linear layer for LoRA; choose another mode", param="mode")
        rank = options.lora_rank
        # Names are matched by their ends too, so the head must be named as what is left out.
        config = LoraConfig(
            r=rank,
            lora_alpha=LORA_SCALE * rank,
            target_modules=names,
            exclude_modules=re.escape(HEAD) + ".*",
        )
        LoraModel(model, config, ADAPTER)  # changes the model in place
    for name, parameter in model.named_parameters():
        if not name.startswith(HEAD):
            parameter.requires_grad_("lora_" in name if options.mode == "lora" else options.mode != "frozen")
        else:
            parameter.requires_grad_(True)


def merge(model: TaskModel) -> None:
    """Add LoRA's adapters to the weights they stand beside and remove them, in place; without any, nothing."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    # peft leaves a note of its adapters; without them transformers would write the model as one that has some.
    model.__dict__.pop("peft_config", None)


def parameter_groups(model: TaskModel, options: FinetuneOptions) -> list[dict[str, Any]]:
    """Return the optimiser's groups of what learns, each with its ``lr`` and ``weight_decay``.

    The head has its own rate. The encoder's parameters of depth d have ``learning_rate * layer_decay ** (top - d)``;
    biases and normalisation weights do not decay.
    """
    depths = layer_depths(model)
    top = max(depths.values(), default=0)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if name.endswith("bias") or "norm" in name.lower() else options.weight_decay
        if name.startswith(HEAD):
            rate = options.head_learning_rate
        else:
            rate = options.learning_rate * options.layer_decay ** (top - depths[name])
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def layer_depths(model: TaskModel) -> dict[str, int]:
    """Return the depth of each of the encoder's parameters by name, 0 for what meets the input first.

    Layer i of the encoder's list of layers (its largest ``ModuleList``) has depth i + 1; what is registered before the
    list lies at 0, what comes after it above the last layer. In an encoder without one, each child with parameters is a
    layer.
    """
    names = [name for name, _ in model.named_parameters() if not name.startswith(HEAD)]
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and not n.startswith(HEAD)]
    if not lists:
        children = list(dict.fromkeys(name.partition(".")[0] for name in names))
        return {name: children.index(name.partition(".")[0]) for name in names}
    # The first of equals is the outermost.
    path, layers = max(lists, key=lambda entry: sum(p.numel() for p in entry[1].parameters()))
    depths: dict[str, int] = {}
    passed = False
    for name in names:
        inside = name.startswith(f"{path}.")
        passed = passed or inside
        if inside:
            depths[name] = int(name[len(path) + 1 :].partition(".")[0]) + 1
        else:
            depths[name] = len(layers) + 1 if passed else 0
    return depths

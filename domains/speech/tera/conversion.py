"""Official TERA files (``states-<steps>.ckpt``) to checkpoints, without running anything they ask for.

The files are pickles of a training script's state, in three generations that differ in where the
configuration lies. They are read by torch's restricted unpickler; the two classes of the training script that
they name are replaced with inert stand-ins, and any other is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.pretraining import TeraForPreTraining
from domains.speech.tera.processing import TeraProcessor
from domains.speech.tera.weights import from_published
from hub.errors import InvalidCheckpoint
from hub.official_files import load_exactly, read_official, some_names


class _Inert:
    """Stands in for a class of the training script; keeps nothing and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Namespace(_Inert):
    """Stands in for ``argparse.Namespace``: the command line of the training run."""


class _Schedule(_Inert):
    """Stands in for ``optimizers.WarmupLinearSchedule``: the learning rate of the training run."""


def convert(path: Path, output: Path, *, heads: int | None = None, front_end: str | None = None) -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) from an official file.

    Args:
        path: The official file.
        output: Folder to write to.
        heads: Attention heads, for a file without configuration: shapes do not tell them.
        front_end: ``"mel"`` or ``"kaldi"``, for a file whose features were computed beforehand (no processor
            is written when it is left out).

    Returns:
        Facts for the model card, by name.

    Raises:
        InvalidCheckpoint: The file is damaged, wants something run, or is not a TERA checkpoint; the text
            names the global, or the missing and unexpected keys.
    """
    container = read_container(path)
    weights = _published_weights(container, path.name)
    generation, settings = _settings(container)
    config = config_from_upstream(settings, weights, heads=heads, source=path.name)
    model = _fill(config, weights, path.name)
    processor, note = _processor(settings, config, front_end, path.name)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    if processor is not None:
        processor.save_pretrained(output)
    steps = next((container[k] for k in ("Step", "Global_step") if isinstance(container.get(k), int)), "not stated")
    facts = {
        "parameters": model.num_parameters(),
        "hidden_states": config.num_hidden_layers + 1,
        "training_steps": steps,
        "container": generation,
        "bytes_of_the_official_file": path.stat().st_size,
    }
    return {**facts, "note": note} if note else facts


def read_container(path: Path) -> dict[str, Any]:
    """Return the top-level dictionary of an official file, its tensors on the CPU.

    Raises:
        InvalidCheckpoint: It is not such a file, or names a class or function that is not on the short list.
    """
    stand_ins = [(_Namespace, "argparse.Namespace"), (_Schedule, "optimizers.WarmupLinearSchedule")]
    container = read_official(path, stand_ins)
    if not isinstance(container, dict):
        raise InvalidCheckpoint(f"{path.name} holds a {type(container).__name__}; a dictionary was expected")
    return container


def config_from_upstream(
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    source: str = "the file",
) -> TeraConfig:
    """Return our configuration from the published one; sizes come from the weights.

    Args:
        settings: Holds ``transformer`` and maybe ``task``; empty for a file without configuration.
        weights: Published names, ``Transformer.*`` and ``SpecHead.*``.
        heads: Attention heads; needed when ``settings`` does not tell them.
        source: What messages call the file.

    Raises:
        InvalidCheckpoint: The weights lack what sizes are read from, or an option is not one of TERA's.
    """
    transformer = dict(settings.get("transformer", {}))
    task = {**transformer, **settings.get("task", {})}  # the oldest files keep the task's keys with the sizes
    heads = transformer.get("num_attention_heads", heads)
    if heads is None:
        raise InvalidCheckpoint(
            f"{source} holds no configuration, and shapes do not tell the number of attention heads; "
            "pass heads= (12 for all published models)"
        )
    if transformer.get("hidden_act", "gelu") != "gelu" or transformer.get("downsample_rate", 1) != 1:
        raise InvalidCheckpoint(f"{source} uses another activation than gelu, or stacked frames; neither is TERA's")
    projection = _weight(weights, "Transformer.input_representations.spec_transform.weight", source)
    expand = _weight(weights, "Transformer.encoder.layer.0.intermediate.dense.weight", source)
    output = _weight(weights, "SpecHead.output.weight", source)
    layers = {m[1] for m in (re.match(r"Transformer\.encoder\.layer\.(\d+)\.", k) for k in weights) if m}
    dim = projection.shape[1]
    frequency = task.get("mask_frequency", 0)
    fields = {
        "mask_frequency": frequency / dim if frequency >= 1 else frequency,  # once a number of columns
        "sequence_length": max(0, task.get("sequence_length", transformer.get("max_input_length", 0)) or 0),
        "loss": task.get("loss", "L1"),
    }
    copied = (
        ("hidden_dropout_prob", transformer),
        ("attention_probs_dropout_prob", transformer),
        ("initializer_range", transformer),
        ("share_layer", transformer),
        ("pre_layer_norm", transformer),
        ("mask_proportion", task),
        ("mask_consecutive_min", task),
        ("mask_consecutive_max", task),
        ("mask_allow_overlap", task),
        ("mask_bucket_ratio", task),
        ("noise_proportion", task),
    )
    fields |= {name: values[name] for name, values in copied if name in values}
    if "layer_norm_eps" in transformer:
        fields["layer_norm_eps"] = float(transformer["layer_norm_eps"])  # YAML reads 1e-12 as text
    try:
        return TeraConfig(
            input_dim=dim,
            output_dim=output.shape[0],
            hidden_size=projection.shape[0],
            intermediate_size=expand.shape[0],
            num_hidden_layers=len(layers),
            num_attention_heads=heads,
            **fields,
        )
    except StrictDataclassError as error:
        raise InvalidCheckpoint(f"{source} has a configuration that is not TERA's: {error}") from None


def processor_from_upstream(settings: Mapping[str, Any], source: str = "the file") -> TeraProcessor | None:
    """Return our processor from the published ``audio`` settings; ``None`` when there are none.

    Raises:
        InvalidCheckpoint: The front end is neither log-mel nor Kaldi's log filter bank.
    """
    audio = settings.get("audio") or settings.get("online")
    if not audio:
        return None
    if "kaldi" in audio:
        kaldi = audio["kaldi"]
        bank = kaldi.get("fbank", {})
        if kaldi.get("feat_type") != "fbank" or not bank.get("use_log_fbank", True):
            raise InvalidCheckpoint(f"{source} uses Kaldi features other than log filter bank energies")
        delta = audio.get("delta") or {}
        return TeraProcessor(
            front_end="kaldi",
            n_mels=bank.get("num_mel_bins", 23),  # Kaldi's own default
            window_ms=float(bank.get("frame_length", 25.0)),
            hop_ms=float(bank.get("frame_shift", 10.0)),
            deltas=delta.get("order", 0),
            delta_window=delta.get("win_length", 5),
            cmvn=bool((audio.get("cmvn") or {}).get("use_cmvn", False)),
        )
    features = audio.get("input", {})
    if features.get("feat_type") != "mel" or not features.get("log", True):
        raise InvalidCheckpoint(
            f"{source} was trained on features of type {features.get('feat_type')!r}; only log-mel and Kaldi "
            "filter banks are offered"
        )
    return TeraProcessor(
        front_end="mel",
        n_mels=audio.get("n_mels", 80),
        window_ms=float(audio.get("win_ms", 25)),
        hop_ms=float(audio.get("hop_ms", 10)),
        n_fft=2 * (audio.get("n_freq", 201) - 1),
        level=float(audio.get("target_level", -25)),
        deltas=features.get("delta", 0),
        cmvn=bool(features.get("cmvn", False)),
    )


def _settings(container: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the generation and the dictionary that describes the model; empty when the file has none."""
    places = (
        ("C (v0.3 and later)", container.get("Upstream_Config")),
        ("B (v0.2.0)", container.get("Config")),
        ("A (v0.1.0)", (container.get("Settings") or {}).get("Config")),
    )
    for generation, found in places:
        if isinstance(found, Mapping) and "transformer" in found:
            return generation, found
    return "without configuration", {}


def _published_weights(container: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the tensors of both dictionaries under their full published names."""
    weights: dict[str, Tensor] = {}
    for part in ("Transformer", "SpecHead"):
        tensors = container.get(part)
        if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
            raise InvalidCheckpoint(
                f"{source} is not a TERA checkpoint: it lacks the weights 'Transformer' and 'SpecHead'; "
                f"it has {some_names(container)}"
            )
        weights |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    return weights


def _fill(config: TeraConfig, weights: Mapping[str, Tensor], source: str) -> TeraForPreTraining:
    """Return the model with these weights, which must be exactly its own."""
    model = TeraForPreTraining(config)
    load_exactly(model, from_published(weights, config.share_layer), source, "TERA's weights")
    return model


def _processor(
    settings: Mapping[str, Any], config: TeraConfig, front_end: str | None, source: str
) -> tuple[TeraProcessor | None, str]:
    """Return the processor, or ``None`` and a note saying what that means."""
    processor = processor_from_upstream(settings, source)
    if processor is None and front_end is not None:
        processor = TeraProcessor(front_end=front_end)
    if processor is None:
        return None, (
            f"The {config.input_dim} features of a frame were computed beforehand, so there is no processor; "
            "the model takes such frames only."
        )
    if processor.features.dim != config.input_dim:
        raise InvalidCheckpoint(
            f"{source} reads {config.input_dim} features a frame, but its front end makes {processor.features.dim}"
        )
    return processor, ""


def _weight(weights: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    """Return a weight that sizes are read from."""
    if name not in weights or weights[name].ndim != 2:
        raise InvalidCheckpoint(
            f"{source} does not hold TERA's weights. Missing: {name}. Unexpected: {some_names(weights)}."
        )
    return weights[name]

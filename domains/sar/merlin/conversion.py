"""Published MERLIN and SAR2SAR files (``.pth``, or their tensors as safetensors) to checkpoints.

The files hold the tensors alone, or with the state of their training. Four models have the same names and shapes, so
the one who converts says which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from domains.sar.merlin.configuration import MerlinConfig
from domains.sar.merlin.modeling import MerlinModel
from domains.sar.merlin.processing import MerlinProcessor
from domains.sar.merlin.sensors import SENSORS
from hub.errors import InvalidCheckpoint, UnsupportedOption
from hub.official_files import load_exactly, read_official, some_names


class _Inert:
    """Stands in for a number of numpy that the training script saved; keeps nothing and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Scalar(_Inert):
    """Stands in for ``numpy.core.multiarray.scalar``."""


class _NumberType(_Inert):
    """Stands in for ``numpy.dtype``."""


_STAND_INS = (
    (_Scalar, "numpy.core.multiarray.scalar"),
    (_Scalar, "numpy._core.multiarray.scalar"),
    (_NumberType, "numpy.dtype"),
)


def convert(path: Path, output: Path, *, sensor: str = "") -> dict[str, Any]:
    """Write a checkpoint (configuration, weights, processor) from a published file.

    Args:
        path: ``spotlight.pth`` and its kin, or safetensors of the same tensors.
        output: Folder to write to.
        sensor: Which published model it is: spotlight, stripmap, sentinel_tops or sar2sar; the file's own name when
            it is one of these.

    Returns:
        Facts for the model card, by name.

    Raises:
        UnsupportedOption: ``sensor`` is none of them, and the file's name neither.
        InvalidCheckpoint: The file is damaged, wants something run, or holds other tensors than this network's.
    """
    name = sensor or path.stem.removeprefix("merlin_")
    if name not in SENSORS:
        raise UnsupportedOption(
            f"sensor {name!r} is none of {', '.join(SENSORS)}: the file does not tell which constants belong to it; "
            "give --option sensor=NAME",
            param="sensor",
        )
    found = SENSORS[name]
    weights = read_weights(path)
    config = config_from_weights(weights, path.name)
    config.log_maximum, config.log_minimum, config.input = found.log_maximum, found.log_minimum, found.input
    model = MerlinModel(config)
    fill(model, weights, path.name)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    MerlinProcessor(input=found.input, min_rms=found.min_rms, max_rms=found.max_rms).save_pretrained(output)
    return {
        "parameters": model.num_parameters(),
        "trained_on": found.title,
        "log_maximum": found.log_maximum,
        "log_minimum": found.log_minimum,
        "bytes_of_the_official_file": path.stat().st_size,
    }


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors under their published names, on the CPU, float32.

    Raises:
        InvalidCheckpoint: It is no such file, or names a class or function that is not on the short list.
    """
    container = read_official(path, _STAND_INS)
    if isinstance(container, Mapping):
        container = container.get("model_state_dict", container)
    if not isinstance(container, Mapping) or not all(isinstance(t, Tensor) for t in container.values()):
        raise InvalidCheckpoint(f"{path.name} is no MERLIN checkpoint: it is not a dictionary of tensors")
    return {str(name): tensor.float() for name, tensor in container.items()}


def config_from_weights(weights: Mapping[str, Tensor], source: str) -> MerlinConfig:
    """Return the configuration whose widths are those of the tensors.

    Raises:
        InvalidCheckpoint: A tensor that tells a width is missing.
    """
    layers = ("enc0", "dec5", "dec1a", "dec1b")
    missing = [f"{layer}.weight" for layer in layers if f"{layer}.weight" not in weights]
    if missing:
        raise InvalidCheckpoint(
            f"{source} is no MERLIN checkpoint. Missing: {some_names(missing)}. It has {some_names(weights)}."
        )
    encoder, decoder, first, second = (len(weights[f"{layer}.weight"]) for layer in layers)
    return MerlinConfig(hidden_size=encoder, decoder_size=decoder, head_sizes=(first, second))


def fill(model: MerlinModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Give the network published weights, which must be exactly its own.

    Raises:
        InvalidCheckpoint: Names or shapes differ; the text has them.
    """
    load_exactly(model.network, weights, source, "MERLIN's weights")

"""Golden cases of MERLIN and SAR2SAR: every recorded tensor against ours; see `check`."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.sar.merlin.configuration import MerlinConfig
from domains.sar.merlin.conversion import config_from_weights, convert, fill, read_weights
from domains.sar.merlin.inference import despeckled_strips
from domains.sar.merlin.modeling import MerlinModel
from domains.sar.merlin.pretraining import MerlinForPreTraining
from domains.sar.merlin.sensors import SENSORS
from domains.sar.merlin.spectrum import symmetrise
from domains.sar.merlin.tiles import tile_offsets
from domains.sar.quality import psnr

Compare = Callable[..., None]
NETWORK = {"atol": 1e-5, "rtol": 1e-4}
LOSS = {"atol": 0.0, "rtol": 1e-4}
GRADIENT = {"atol": 1e-6, "rtol": 2e-3}
SPECTRUM = {"atol": 1e-3}
REAL = {"atol": 0.0, "rtol": 2e-3}
EXACT = {"atol": 0.0}


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare every tensor of one folder with ours.

    Args:
        folder: Holds ``config.json``, ``weights.safetensors``, ``io.safetensors``, the same weights in the two native
            containers, and ``io_real_checkpoints.safetensors``, whose published weights lie in the data beside it.
        compare: ``compare(name, actual, expected, *, atol, rtol=0.0)``; records and fails.
    """
    recorded = load_file(folder / "io.safetensors")
    weights = load_file(folder / "weights.safetensors")
    seen = _network(json.loads((folder / "config.json").read_text()), weights, recorded, compare)
    seen |= _steps(recorded, compare)
    left = sorted(recorded.keys() - seen)
    assert not left, f"recorded, but not compared: {left}"
    for file in ("native_flat.pth", "native_nested.pth"):
        _native(folder / file, weights, compare)
    published = folder.parents[1] / "data" / "sar" / "weights"
    if published.is_dir():
        _published(load_file(folder / "io_real_checkpoints.safetensors"), published, compare)


def _network(settings: dict, weights: dict[str, Tensor], recorded: dict[str, Tensor], compare: Compare) -> set[str]:
    """Activations, output, losses and gradients of the small network."""
    config = config_from_weights(weights, "golden")
    widths = (config.hidden_size, config.decoder_size, *config.head_sizes)
    wanted = tuple(settings[f"{n}_channels"] for n in ("enc", "dec", "dec1a", "dec1b"))
    compare("widths", torch.tensor(widths), torch.tensor(wanted), **EXACT)
    task = MerlinForPreTraining(config)
    fill(task.merlin, weights, "golden")
    found: dict[str, Tensor] = {}
    for name, layer in task.merlin.network.named_children():
        # A hook's value, unless it is None, takes the place of the output.
        layer.register_forward_hook(lambda _, __, out, n=name: _note(found, n, out))
    real, imaginary = recorded["real"], recorded["imag"]
    compare("x_norm", task.merlin.normalise(real), recorded["x_norm"], **NETWORK)
    even = task(real, imaginary)
    compare("out", even.predictions, recorded["out"], **NETWORK)
    for name, activation in found.items():
        compare(f"conv.{name}", activation, recorded[f"conv.{name}"], **NETWORK)
    compare("denorm_amp", task.merlin.amplitudes(even.predictions)[:, 0], recorded["denorm_amp"], **LOSS)
    shipped = even.loss / len(real)  # the published code divides by the batch once more
    compare("loss_mean_even", even.loss[None], recorded["loss_mean_even"], **LOSS)
    compare("loss_even", shipped[None], recorded["loss_even"], **LOSS)
    compare("loss_shipped_even", shipped[None], recorded["loss_shipped_even"], **LOSS)
    shipped.backward()
    gradients = {n.removeprefix("merlin.network."): p.grad for n, p in task.named_parameters()}
    wanted_gradients = [k for k in recorded if k.startswith("grad_even.")]
    for key in wanted_gradients:
        compare(key, gradients[key.removeprefix("grad_even.")], recorded[key], **GRADIENT)
    odd = task(imaginary, real).loss / len(real)
    compare("loss_odd", odd[None], recorded["loss_odd"], **LOSS)
    names = {
        "real",
        "imag",
        "x_norm",
        "out",
        "denorm_amp",
        "loss_even",
        "loss_mean_even",
        "loss_shipped_even",
        "loss_odd",
    }
    return names | set(wanted_gradients) | {f"conv.{name}" for name in found}


def _note(found: dict[str, Tensor], name: str, output: Tensor) -> None:
    found.setdefault(name, output.detach())


def _steps(recorded: dict[str, Tensor], compare: Compare) -> set[str]:
    """Symmetrisation, tiling, the quality figure, and SAR2SAR's normalisation."""
    seen = set()
    for number in range(3):
        given, wanted = (
            torch.complex(recorded[f"sym{number}.{k}_real"], recorded[f"sym{number}.{k}_imag"]) for k in ("in", "out")
        )
        ours = symmetrise(given[None])[0]
        compare(f"sym{number}.out_real", ours.real, wanted.real, **SPECTRUM)
        compare(f"sym{number}.out_imag", ours.imag, wanted.imag, **SPECTRUM)
        seen |= {k for k in recorded if k.startswith(f"sym{number}.")}
    for key in (k for k in recorded if k.startswith("tiles.")):
        compare(key, torch.tensor(tile_offsets(*map(int, key.split(".")[1].split("_")))), recorded[key], **EXACT)
        seen.add(key)
    value = psnr(recorded["psnr.ref"].numpy(), recorded["psnr.est"].numpy())
    compare("psnr.value", torch.tensor([value]), recorded["psnr.value"], atol=1e-4)
    detected = MerlinModel(MerlinConfig(input="amplitude", hidden_size=2, decoder_size=2, head_sizes=(2, 2)))
    normalised = detected.normalise(recorded["sar2sar_norm.in"])
    compare("sar2sar_norm.out", normalised, recorded["sar2sar_norm.out"], **NETWORK)
    back = detected.amplitudes(recorded["sar2sar_norm.out"].clamp(min=0))
    compare("sar2sar_denorm.out", back, recorded["sar2sar_denorm.out"], **LOSS)
    return seen | {k for k in recorded if k.startswith(("psnr.", "sar2sar_"))}


def _native(file: pathlib.Path, weights: dict[str, Tensor], compare: Compare) -> None:
    """The converter on both native containers."""
    with tempfile.TemporaryDirectory() as scratch:
        convert(file, pathlib.Path(scratch) / "out", sensor="stripmap")
        saved = MerlinModel.from_pretrained(pathlib.Path(scratch) / "out").network.state_dict()
    worst = max(float((saved[name] - tensor).abs().max()) for name, tensor in weights.items())
    compare(f"{file.name}: weights", worst, 0.0, **EXACT)
    assert saved.keys() == weights.keys()


def _published(recorded: dict[str, Tensor], folder: pathlib.Path, compare: Compare) -> None:
    """The published checkpoints on a real single-look complex patch, whole and in tiles."""
    whole = torch.stack([recorded["slc_real"], recorded["slc_imag"]])
    crop = torch.stack([recorded["tiled.in_real"], recorded["tiled.in_imag"]])
    patch, stride = recorded["tiled.patch_stride"].tolist()
    for name in ("spotlight", "stripmap", "sentinel_tops"):
        weights = read_weights(folder / f"merlin_{name}.safetensors")
        for how in ("sym", "nosym"):
            if f"{name}.{how}.full" in recorded:
                strips = _despeckled(name, weights, whole, symmetrise=how == "sym")
                _compare_parts(f"{name}.{how}", strips, recorded, compare)
            if f"tiled.{name}.{how}.full" in recorded:
                tiling = {"patch": patch, "stride": stride, "symmetrise": how == "sym"}
                _compare_parts(f"tiled.{name}.{how}", _despeckled(name, weights, crop, **tiling), recorded, compare)
    weights = read_weights(folder / "sar2sar.fp16.safetensors")
    amplitude, _ = _despeckled("sar2sar", weights, whole.square().sum(0, keepdim=True).sqrt())
    compare("sar2sar.full_fp16weights", amplitude, recorded["sar2sar.full_fp16weights"], **REAL)
    compare("sar2sar.full", amplitude, recorded["sar2sar.full"], atol=0.0, rtol=5e-3)  # of unrounded weights
    small = crop.square().sum(0, keepdim=True).sqrt()
    amplitude, _ = _despeckled("sar2sar", weights, small, patch=patch, stride=stride)
    compare("tiled.sar2sar.full", amplitude, recorded["tiled.sar2sar.full"], atol=0.0, rtol=5e-3)
    task = MerlinForPreTraining(MerlinConfig())
    fill(task.merlin, read_weights(folder / "merlin_spotlight.safetensors"), "spotlight")
    real, imaginary = whole[:1, None], whole[1:, None]
    with torch.no_grad():
        compare("spotlight.loss_even", task(real, imaginary).loss[None], recorded["spotlight.loss_even"], **REAL)
        compare("spotlight.loss_odd", task(imaginary, real).loss[None], recorded["spotlight.loss_odd"], **REAL)


def _despeckled(name: str, weights: dict[str, Tensor], parts: Tensor, **changes: object) -> tuple[Tensor, Tensor]:
    sensor = SENSORS[name]
    constants = {"log_maximum": sensor.log_maximum, "log_minimum": sensor.log_minimum, "input": sensor.input}
    model = MerlinModel(MerlinConfig(**constants, **changes)).eval()
    fill(model, weights, name)
    strips = list(despeckled_strips(model, lambda first, last: parts[:, first:last], *parts.shape[1:], 1.0))
    return torch.cat([s.amplitude for s in strips]), torch.cat([s.parts for s in strips], dim=1)


def _compare_parts(key: str, found: tuple[Tensor, Tensor], recorded: dict[str, Tensor], compare: Compare) -> None:
    amplitude, parts = found
    compare(f"{key}.full", amplitude, recorded[f"{key}.full"], **REAL)
    for number, part in enumerate(("from_real", "from_imag")):
        if f"{key}.{part}" in recorded:
            compare(f"{key}.{part}", parts[number], recorded[f"{key}.{part}"], **REAL)

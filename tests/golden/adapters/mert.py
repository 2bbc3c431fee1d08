"""Golden cases of MERT: every recorded tensor against ours; see `check`."""

from __future__ import annotations

import ast
import json
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.music.mert.configuration import MertConfig
from domains.music.mert.conversion import config_from_published
from domains.music.mert.cqt import bin_frequencies, constant_q, kernel_lengths, kernels
from domains.music.mert.mixture import Piece, add_pieces
from domains.music.mert.modeling import MertModel
from domains.music.mert.pretraining import MertForPreTraining
from domains.music.mert.targets import EncodecTeacher
from domains.music.mert.weights import from_published, from_training
from hub.official_files import load_exactly
from hub.ssl import span_mask

Compare = Callable[..., None]
ATOL = 1e-4


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare every tensor of one folder with ours.

    Args:
        folder: One of the recorded cases; its name begins with the kind of case.
        compare: ``compare(name, actual, expected, *, atol, rtol=0.0)``; records and fails.
    """
    settings = json.loads((folder / "config.json").read_text())
    recorded = load_file(folder / "io.safetensors")
    kinds = {
        "encoder": _encoder,
        "pretrain": _pretraining,
        "cqt": _constant_q,
        "noise": _mixture,
        "mask": _masks,
        "encodec": _encodec,
    }
    kinds[folder.name.split("_")[0]](folder, settings, recorded, compare)


def _encoder(folder: pathlib.Path, settings: dict[str, Any], recorded: dict[str, Tensor], compare: Compare) -> None:
    weights = load_file(folder / "weights.safetensors")
    config = config_from_published(settings, folder.name)
    model = MertModel(config).eval()
    load_exactly(model, from_published(weights), folder.name, "MERT's weights")
    waveforms = recorded["input_values"]
    with torch.no_grad():
        features = model.features(waveforms)
        projected = model.project(features, waveforms)
        compare("conv_features", features, recorded["conv_features"], atol=ATOL)
        if "cqt_features" in recorded:
            spectrum = model.constant_q(waveforms, config.feature_extractor_cqt_bins)
            compare("cqt_features", spectrum, recorded["cqt_features"], atol=ATOL)
        compare("projected_features", projected, recorded["projected_features"], atol=ATOL)
        positions = model.encoder.pos_conv_embed(projected)
        compare("pos_conv_embed", positions, recorded["pos_conv_embed"], atol=ATOL)
        # As a user calls it, then the official padded batch, then masked frames.
        output = model(waveforms, output_hidden_states=True)
        _compare_states("nomask", output.hidden_states, recorded, compare)
        compare("nomask.last_hidden_state", output.last_hidden_state, recorded["nomask.last_hidden_state"], atol=ATOL)
        mask = recorded["padded.feature_attention_mask"].bool()
        frames = [config.frames(n) for n in recorded["attention_mask"].long().sum(1).tolist()]
        compare("padded.frames", torch.tensor(frames), mask.sum(1), atol=0)
        padded = recorded["input_values_padded"]
        states = tuple(model.contextualise(model.project(model.features(padded), padded), mask))
        _compare_states("padded", [s * mask[..., None] for s in states], recorded, compare, mask)
        compare(
            "padded.last_hidden_state",
            states[-1] * mask[..., None],
            recorded["padded.last_hidden_state"] * mask[..., None],
            atol=ATOL,
        )
        masked = model.project(features, waveforms, recorded["mask_time_indices"].bool())
        *_, last = model.contextualise(masked)
        compare("masked.last_hidden_state", last, recorded["masked.last_hidden_state"], atol=ATOL)
        # Probabilities are only there with the plain attention kernel.
        model.set_attn_implementation("eager")
        first = model.encoder.layers[0]
        states = output.hidden_states[0]
        inside = first.layer_norm(states) if config.do_stable_layer_norm else states
        compare("nomask.attentions.0", first.attention(inside)[1], recorded["nomask.attentions.0"], atol=ATOL)


def _compare_states(
    prefix: str, states: Any, recorded: dict[str, Tensor], compare: Compare, mask: Tensor | None = None
) -> None:
    for i, actual in enumerate(states):
        expected = recorded[f"{prefix}.hidden_states.{i}"]
        compare(
            f"{prefix}.hidden_states.{i}", actual, expected if mask is None else expected * mask[..., None], atol=ATOL
        )


def _training_config(settings: dict[str, Any]) -> MertConfig:
    """Our configuration of the training code's options; the switches that these cases leave off are not read."""
    options = settings["model"]
    terms = re.findall(r"\[\((\d+),\s*(\d+),\s*(\d+)\)\](?:\s*\*\s*(\d+))?", options["conv_feature_layers"])
    convolutions = [tuple(map(int, term[:3])) for term in terms for _ in range(int(ast.literal_eval(term[3] or "1")))]
    dim, kernel, stride = (list(column) for column in zip(*convolutions, strict=True))
    return MertConfig(
        sample_rate=settings["sample_rate"],
        hidden_size=options["encoder_embed_dim"],
        num_hidden_layers=options["encoder_layers"],
        num_attention_heads=options["encoder_attention_heads"],
        intermediate_size=options["encoder_ffn_embed_dim"],
        conv_dim=dim,
        conv_kernel=kernel,
        conv_stride=stride,
        num_conv_pos_embeddings=options["conv_pos"],
        num_conv_pos_embedding_groups=options["conv_pos_groups"],
        do_stable_layer_norm=options.get("layer_norm_first", False),
        feat_proj_dropout=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=0.0,
        codebooks=settings["n_codebooks"],
        codebook_size=settings["codebook_size"],
        code_dim=options["final_dim"],
        code_temperature=options["logit_temp"],
        cqt_bins=options["audio_cqt_bins"],
        features_penalty=settings["loss_weights"][0],
        cqt_weight=settings["loss_weights"][1],
        feature_grad_mult=options["feature_grad_mult"],
    )


def _pretraining(folder: pathlib.Path, settings: dict[str, Any], recorded: dict[str, Tensor], compare: Compare) -> None:
    config = _training_config(settings)
    task = MertForPreTraining(config).train()
    weights = from_training(load_file(folder / "weights.safetensors"), config.codebooks)
    load_exactly(task, weights, folder.name, "MERT's weights")
    source, codes = recorded["source"], recorded["codes"].permute(1, 2, 0).long()
    compare("targets", codes + config.special_codes, recorded["targets"].permute(1, 2, 0), atol=0)
    output = task(source, codes, recorded["mask_indices"], attention_mask=~recorded["padding_mask"].bool())
    chosen = recorded["loss_mask"].bool()
    features = task.mert.features(source)
    compare("conv_features_BxCxT", features.transpose(1, 2), recorded["conv_features_BxCxT"], atol=ATOL)
    real = output.states_mask if output.states_mask is not None else torch.ones_like(chosen)
    for name, states in (("encoder_out", output.states), ("encoder_out, masked", output.states)):
        where = (real if name == "encoder_out" else chosen)[..., None]
        compare(name, states * where, recorded["encoder_out"] * where, atol=ATOL)
    targets = codes[:, : chosen.shape[1]][chosen] + config.special_codes
    logits = task.code_head(output.states[chosen])
    for k in range(config.codebooks):
        ours, expected = logits[:, k], recorded[f"nce_logits.{k}"]
        positive = ours.gather(1, targets[:, k : k + 1])
        rest = ours.scatter(1, targets[:, k : k + 1], float("-inf"))
        compare(f"nce_logits.{k}", torch.cat([positive, rest], 1), expected, atol=ATOL)
        loss = torch.nn.functional.cross_entropy(ours, targets[:, k], reduction="sum")
        compare(f"loss_m.{k}", loss, recorded[f"loss_m.{k}"], atol=0, rtol=ATOL)
    spectrum = task.mert.constant_q(source, config.cqt_bins)
    compare("cqt_targets", spectrum, recorded["cqt_targets"], atol=ATOL)
    compare("cqt_pred_masked", output.predictions, recorded["cqt_pred_masked"], atol=ATOL)
    compare("cqt_mse", output.metrics["cqt_loss"], recorded["cqt_mse"], atol=0, rtol=ATOL)
    compare("features_pen", output.metrics["features_penalty"], recorded["features_pen"], atol=0, rtol=ATOL)
    compare("sample_size", chosen.sum(), recorded["sample_size"], atol=0)
    compare("loss_sum", output.loss * chosen.sum(), recorded["loss_sum"], atol=0, rtol=ATOL)
    per_frame = output.metrics["code_loss"] * config.codebooks
    compare("loss_per_masked_frame", output.loss, recorded["loss_per_masked_frame"], atol=0, rtol=ATOL)
    compare(
        "code loss", per_frame, sum(recorded[f"loss_m.{k}"] for k in range(config.codebooks)) / chosen.sum(), atol=1e-3
    )
    output.loss.backward()
    ours = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    expected = from_training(load_file(folder / "grads.safetensors"), config.codebooks)
    assert ours.keys() == expected.keys(), ours.keys() ^ expected.keys()
    for name, gradient in expected.items():
        compare(f"grad {name}", ours[name], gradient, atol=1e-5 * max(1.0, float(gradient.abs().max())), rtol=1e-3)


def _constant_q(folder: pathlib.Path, settings: dict[str, Any], recorded: dict[str, Tensor], compare: Compare) -> None:
    for name, case in settings.items():
        rate, bins = case["sample_rate"], case["n_bins"]
        spectrum = constant_q(recorded[f"{name}.waveform"], rate, case["hop_length"], bins)
        compare(f"{name}.magnitude", spectrum.transpose(1, 2), recorded[f"{name}.magnitude"], atol=ATOL)
        lengths = torch.from_numpy(kernel_lengths(rate, bins))
        compare(f"{name}.kernel_lengths", lengths, recorded[f"{name}.kernel_lengths"], atol=0)
        frequencies = torch.from_numpy(bin_frequencies(bins))
        compare(f"{name}.frequencies", frequencies, recorded[f"{name}.frequencies"], atol=1e-3)
        groups = kernels(rate, bins, torch.device("cpu"))
        for part, sign in (("real", 1), ("imag", -1)):
            for key in (k for k in recorded if k.startswith(f"{name}.kernel_{part}.bin")):
                k = int(re.search(r"bin(\d+)", key)[1])
                size = len(groups[0].scale)
                weight = groups[k // size].weight
                row = k % size + (0 if part == "real" else len(weight) // 2)
                # A short kernel has fewer taps than the 256 that are recorded around its middle.
                kernel = torch.nn.functional.pad(sign * weight[row, 0], (128, 128))
                middle = len(kernel) // 2
                compare(key, kernel[middle - 128 : middle + 128], recorded[key], atol=1e-6)
        compare(f"{name}.frames", spectrum.shape[1], case["n_frames"], atol=0)


def _mixture(folder: pathlib.Path, settings: dict[str, Any], recorded: dict[str, Tensor], compare: Compare) -> None:
    batch = recorded["batch"]
    pieces: list[list[Piece]] = [[] for _ in batch]
    for draw in settings["draws"]:
        places = zip(draw["pool_starts"], draw["durations"], draw["positions"], strict=True)
        pieces[draw["target_index"]] = [Piece(*place) for place in places]
    mixed = add_pieces(batch, pieces, settings["noise_volume"])
    for row in range(len(batch)):
        compare(f"augmented.{row}", mixed[row], recorded[f"augmented.{row}"], atol=0)


def _masks(folder: pathlib.Path, settings: dict[str, Any], recorded: dict[str, Tensor], compare: Compare) -> None:
    """The sampler's statistics: its draws are not recorded."""
    generator = torch.Generator().manual_seed(0)
    for name, case in settings.items():
        rows, frames = case["shape"]
        lengths = (~recorded[f"{name}.padding_mask"].bool()).sum(1)
        shares = []
        for _ in range(case["draws"]):
            mask = span_mask(
                rows,
                frames,
                probability=case["mask_prob"],
                span=case["mask_length"],
                generator=generator,
                lengths=lengths,
            )
            shares.append((mask.sum(1) / lengths).mean())
        # Over five standard errors of the difference between two such means.
        compare(f"{name}.mean_masked_fraction", torch.stack(shares).mean(), case["mean_masked_fraction"], atol=0.01)


def _encodec(folder: pathlib.Path, settings: dict[str, Any], recorded: dict[str, Tensor], compare: Compare) -> None:
    from transformers import EncodecConfig, EncodecModel

    written = ("frame_rate", "transformers_version")  # follow from the others
    model = EncodecModel(EncodecConfig(**{k: v for k, v in settings.items() if k not in written})).eval()
    weights = load_file(folder / "weights.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.startswith("decoder.") for name in missing), (missing, unexpected)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        teacher = EncodecTeacher(scratch, recorded["audio_codes"].shape[2])
    compare("bandwidth", teacher.bandwidth, recorded["bandwidth"], atol=1e-6)
    with torch.no_grad():
        embeddings = teacher.model.encoder(recorded["waveform"].unsqueeze(1))
    compare("encoder_embeddings", embeddings, recorded["encoder_embeddings"], atol=ATOL)
    for row, waveform in enumerate(recorded["waveform"]):
        codes = teacher.codes(waveform, settings["sampling_rate"], 320)
        compare(f"audio_codes.{row}", codes.T, recorded["audio_codes"][0, row], atol=0)

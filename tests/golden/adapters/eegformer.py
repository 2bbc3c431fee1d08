"""Golden cases of EEGFormer: front end, model with gradients, quantiser, n-grams; see `check`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.eeg.eegformer.configuration import EEGFormerConfig
from domains.eeg.eegformer.ngrams import NgramClassifier
from domains.eeg.eegformer.pretraining import EEGFormerForPreTraining
from domains.eeg.eegformer.spectrum import FrontEnd, instance_norm, patches, spectrum
from hub.ssl import Codebook

Compare = Callable[..., None]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
LOSS = {"atol": 1e-5}
GRADIENT = {"atol": 1e-7, "rtol": 1e-4}


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Recompute every recorded tensor of a case."""
    settings = json.loads((folder / "config.json").read_text())
    io = load_file(folder / "io.safetensors")
    part = {"frontend": _front_end, "vq": _quantiser, "ngram": _ngrams}.get(folder.name)
    if part is not None:
        part(settings, io, compare)
    else:
        _model(settings, load_file(folder / "weights.safetensors"), io, compare)


def our_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return torch's names of a Transformer's weights as ours."""
    return {k.replace("in_proj_", "in_proj."): v for k, v in weights.items()}


def _model(settings: dict[str, Any], weights: dict[str, Tensor], io: dict[str, Tensor], compare: Compare) -> None:
    known = set(EEGFormerConfig().to_dict())
    config = EEGFormerConfig(
        **{k: v for k, v in settings.items() if k in known and k != "model_type"},
        num_hidden_layers=settings["num_encoder_layers"],
        max_tokens=settings["num_patches"],
        hidden_dropout_prob=0.0,
    )
    task = EEGFormerForPreTraining(config).train()
    missing, unexpected = task.eegformer.load_state_dict(our_names(weights), strict=False)
    assert missing == ["codebook.cluster_size"] and not unexpected
    values, raw = _tokens(settings, io["x_uV"])
    compare("spectrum", raw, io["spectrum"], **CLOSE)
    compare("patches", values, io["patches"], **CLOSE)
    batch, channels = io["x_uV"].shape[:2]
    own = values.unflatten(0, (batch, channels))
    real = torch.ones(own.shape[:3], dtype=torch.bool)
    output = task(own, real)
    compare("encoder_out", output.states, io["encoder_out"], **CLOSE)
    compare("reconstruction", output.predictions, io["reconstruction"], **CLOSE)
    compare("total_loss", output.loss[None], io["total_loss"], **LOSS)
    for ours, theirs in (("reconstruction", "rec_loss"), ("commitment", "commit_loss")):
        compare(theirs, output.metrics[ours][None], io[theirs], **LOSS)
    compare("perplexity", output.metrics["perplexity"][None], io["perplexity"], atol=1e-3)
    output.states.retain_grad()
    output.loss.backward()
    compare("grad.encoder_out", output.states.grad, io["grad.encoder_out"], **GRADIENT)
    parameters = dict(task.eegformer.named_parameters())
    for name, gradient in io.items():
        if name.startswith("grad.") and name != "grad.encoder_out":
            ours = name.removeprefix("grad.").replace("grad.codebook", "codebook")
            ours = "codebook.weight" if ours == "codebook" else ours
            compare(name, parameters[ours].grad, gradient, **GRADIENT)

    model = task.eegformer.eval()
    with torch.inference_mode():
        first, *_, states = model.encode(values)
        compare("embedded", first, io["embedded"], **CLOSE)
        quantised = model.quantise(states)
        compare("quantized", quantised.values, io["quantized"], **CLOSE)
        compare("codebook_loss", quantised.codebook_loss[None], io["codebook_loss"], **LOSS)
        compare("decoder_out", model.decoder(quantised.values), io["decoder_out"], **CLOSE)
        compare(
            "quantized_mean", quantised.values.unflatten(0, (batch, -1)).mean((1, 2)), io["quantized_mean"], **CLOSE
        )
        given = {"input_values": own, "attention_mask": real, "channels": torch.arange(channels).expand(batch, -1)}
        codes, _ = model.code_indices(given)
        compare("indices", codes.flatten(0, 1), io["indices"], atol=0)
        compare("embedding_mean", torch.stack(model.embed(given, "mean")), io["embedding_mean"], **CLOSE)
        by_channel = states.unflatten(0, (batch, channels)).mean(2)
        compare("embedding_channel_mean", by_channel, io["embedding_channel_mean"], **CLOSE)
        histogram = model.code_histogram(given).sum(0) * real[0].sum()
        compare("code_counts", histogram, io["code_counts"], atol=1e-3)
        if "short.x_uV" in io:
            values, _ = _tokens(settings, io["short.x_uV"])
            *_, states = model.encode(values)
            compare("short.encoder_out", states, io["short.encoder_out"], **CLOSE)
            indices, errors = model.reconstruct(values, torch.ones(values.shape[:2], dtype=torch.bool))
            compare("short.indices", indices, io["short.indices"], atol=0)
            compare("short.rec_loss", errors.mean()[None], io["short.rec_loss"], **LOSS)


def _tokens(settings: dict[str, Any], signal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens of a signal ``(batch, channels, samples)``, and its spectrum."""
    seconds = signal.shape[-1] / settings["sampling_rate"]
    front_end = FrontEnd(
        sampling_rate=settings["sampling_rate"],
        window_seconds=seconds,
        frame_seconds=seconds,
        spectrum=settings["spectrum"],
        freq_max=settings["sampling_rate"],
        patch_size=settings["patch_size"],
        stride=settings["stride"],
        instance_norm_eps=settings["instance_norm_eps"],
    )
    windows = signal.double().numpy()
    return front_end(windows).values, torch.from_numpy(front_end.raw(windows)[..., 0, :, 0])


def _front_end(settings: dict[str, Any], io: dict[str, Tensor], compare: Compare) -> None:
    signal = io["x_uV"].double()
    rate, eps = settings["sampling_rate"], settings["instance_norm_eps"]
    tolerance = {"atol": 1e-4, "rtol": 1e-4}
    amplitude = torch.from_numpy(spectrum(signal.numpy()))[..., 0]
    compare("positive_half_amplitude", amplitude, io["positive_half_amplitude"], **tolerance)
    compare("rfft_amplitude", amplitude, io["rfft_amplitude"][..., :-1], **tolerance)
    log = torch.from_numpy(spectrum(signal.numpy(), "log_amplitude"))[..., 0]
    compare("log_amplitude", log, io["log_amplitude"], **tolerance)
    parts = torch.from_numpy(spectrum(signal.numpy(), "complex"))
    audible = io["rfft_amplitude"][..., :-1] > 1e-3
    phase = torch.atan2(parts[..., 1], parts[..., 0])[audible]
    compare("rfft_phase", phase, io["rfft_phase"][..., :-1][audible], **tolerance)
    frames = FrontEnd(
        rate, 2.0, "log_amplitude", "frame", 1.0, 1.0, freq_max=rate, token_axis="time", instance_norm_eps=eps
    )
    compare("per_second_log_amplitude", frames.raw(signal.numpy())[..., 0], io["per_second_log_amplitude"], **tolerance)
    overlapping = FrontEnd(rate, 2.0, "amplitude", "frame", 1.0, 0.5, freq_max=rate, token_axis="time")
    stft = torch.from_numpy(overlapping.raw(signal.numpy())[..., 0]).transpose(-1, -2)
    compare("stft_magnitude", stft, io["stft_magnitude"][..., :-1, :], **tolerance)
    normalised, _, _ = instance_norm(amplitude, eps)
    compare("instance_norm", normalised, io["instance_norm"], **tolerance)
    compare("instance_norm_time", instance_norm(signal, eps)[0], io["instance_norm_time"], **tolerance)
    cut = patches(io["instance_norm"][..., None], settings["patch_size"], settings["stride"])
    compare("patches_P16_S8_endpad", cut, io["patches_P16_S8_endpad"], **tolerance)
    compare("patches_P16_S8_nopad", cut[..., :-1, :], io["patches_P16_S8_nopad"], **tolerance)


def _quantiser(settings: dict[str, Any], io: dict[str, Tensor], compare: Compare) -> None:
    for name in ("euclid_ema", "cosine_ema", "euclid_learnable"):
        book = Codebook(
            settings["codebook_size"],
            settings["dim"],
            generator=torch.Generator(),
            update="gradient" if name == "euclid_learnable" else "ema",
            decay=settings["decay"],
            eps=settings["eps"],
            unit_norm=name == "cosine_ema",
        )
        io_of = {k.removeprefix(f"{name}."): v for k, v in io.items() if k.startswith(f"{name}.")}
        with torch.no_grad():
            book.weight.copy_(io_of["codebook_0"])
            book.cluster_size.copy_(io_of["cluster_size_0"])
            if name != "euclid_learnable":
                book.embed_avg.copy_(io_of["embed_avg_0"])
        for step in range(1, settings["steps"] + 1):
            x = io_of[f"x_{step}"].clone().requires_grad_()
            found = book.train()(x)
            loss = found.commitment_loss if name != "euclid_learnable" else found.codebook_loss
            compare(f"{name}.indices_{step}", found.indices, io_of[f"indices_{step}"], atol=0)
            compare(f"{name}.out_{step}", found.values, io_of[f"out_{step}"], atol=1e-5)
            compare(f"{name}.loss_{step}", loss[None], io_of[f"loss_{step}"], atol=1e-5)
            weights = torch.arange(1.0, settings["dim"] + 1)
            # With a learnable codebook the library's one loss moves both sides; ours has a term for each.
            ((found.values * weights).sum() + found.commitment_loss).backward()
            compare(f"{name}.grad_x_{step}", x.grad, io_of[f"grad_x_{step}"], atol=1e-5)
            compare(f"{name}.codebook_{step}", book.weight, io_of[f"codebook_{step}"], atol=1e-5)
            if name != "euclid_learnable":
                compare(f"{name}.cluster_size_{step}", book.cluster_size, io_of[f"cluster_size_{step}"], atol=1e-5)
        found = book.eval()(io_of["eval_x"])
        compare(f"{name}.eval_indices", found.indices, io_of["eval_indices"], atol=0)
        compare(f"{name}.eval_out", found.values, io_of["eval_out"], atol=1e-5)


def _ngrams(settings: dict[str, Any], io: dict[str, Tensor], compare: Compare) -> None:
    rows = [[channel.tolist() for channel in record] for record in io["indices"]]
    labels, train = io["labels"].numpy(), io["train_mask"].bool().numpy()
    low, high = settings["ngram_range"]
    model = NgramClassifier(low, high, alpha=settings["alpha"])
    fitted, rest = ([r for r, t in zip(rows, train, strict=True) if t == part] for part in (True, False))
    model.fit(fitted, labels[train].tolist(), more=rest)
    expected = {tuple(n for n in ngram if n >= 0): i for i, ngram in enumerate(io["ngrams"].tolist())}
    order = [model.vocabulary[ngram] for ngram in sorted(expected, key=expected.__getitem__)]
    compare("counts", torch.from_numpy(model.counts(rows).toarray()[:, order]), io["counts"], atol=0)
    bayes = model.bayes
    compare("class_log_prior", torch.from_numpy(bayes.class_log_prior_), io["class_log_prior"], atol=1e-9)
    compare("feature_log_prob", torch.from_numpy(bayes.feature_log_prob_[:, order]), io["feature_log_prob"], atol=1e-9)
    compare("prob_positive", torch.from_numpy(model.probabilities(rows)[:, 1]), io["prob_positive"], atol=1e-9)
    telling = model.telling(1, len(io["top_ngrams"]))
    compare("top_log_ratio", torch.tensor([r for _, r in telling], dtype=torch.float64), io["top_log_ratio"], atol=1e-9)
    found = np.full(io["top_ngrams"].shape, -1)
    for place, (ngram, _) in zip(found, telling, strict=True):
        place[: len(ngram)] = ngram
    compare("top_ngrams", torch.from_numpy(found), io["top_ngrams"], atol=0)

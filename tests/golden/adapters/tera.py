"""Golden cases of TERA: every recorded tensor against ours; see `check`."""

from __future__ import annotations

import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.speech.tera import features
from domains.speech.tera.collation import TeraCollator
from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.conversion import config_from_upstream, convert, processor_from_upstream
from domains.speech.tera.modeling import TeraModel, sinusoid_positions
from domains.speech.tera.optimization import TeraAdamW
from domains.speech.tera.pretraining import TeraForPreTraining
from domains.speech.tera.processing import TeraProcessor
from domains.speech.tera.weights import from_published, our_name
from hub.training.schedules import schedule_factor

Compare = Callable[..., None]

FEATURES = {"mel": 2e-4, "kaldi": 1e-3}
FROM_AUDIO = 1e-4
FROM_FEATURES = 1e-5
EXACT = 0.0


class RecordedDraws:
    """The random draws of the published code in their order; asking for anything else is an error."""

    def __init__(self, draws: list[list[Any]]) -> None:
        """Keep the record."""
        self._draws = iter(draws)

    def _next(self, kind: str) -> list[Any]:
        recorded = next(self._draws, None)
        assert recorded is not None and recorded[0] == kind, f"{kind} asked for, {recorded and recorded[0]} recorded"
        return recorded

    def random(self) -> float:
        """Return the next recorded number."""
        return self._next("random")[1]

    def randint(self, low: int, high: int) -> int:
        """Return the next recorded whole number."""
        _, bounds, value = self._next("randint")
        assert bounds == [low, high], f"randint{(low, high)} asked for, {bounds} recorded"
        return value

    def randperm(self, count: int) -> Tensor:
        """Return the next recorded permutation."""
        _, recorded, permutation = self._next("randperm")
        assert recorded == count, f"randperm({count}) asked for, {recorded} recorded"
        return torch.tensor(permutation, dtype=torch.long)

    def normal(self, shape: torch.Size, std: float) -> Tensor:
        """Return no noise: it was not recorded."""
        return torch.zeros(shape)

    def exhausted(self) -> bool:
        """Tell whether every recorded draw was asked for."""
        return next(self._draws, None) is None


class Case:
    """One folder with its models, and the comparisons still to be made."""

    def __init__(self, folder: pathlib.Path, compare: Compare) -> None:
        """Read the folder and build the models from its weights."""
        self.folder = folder
        self.settings = json.loads((folder / "config.json").read_text())
        self.draws = json.loads((folder / "draws.json").read_text())
        self.weights = load_file(folder / "weights.safetensors")
        self.recorded = load_file(folder / "io.safetensors")
        self.config: TeraConfig = config_from_upstream(self.settings, self.weights)
        self.processor: TeraProcessor = processor_from_upstream(self.settings)
        self.front_end = self.processor.features
        self.feature_atol = FEATURES[self.front_end.kind]
        self._compare = compare
        self.seen: set[str] = set()

    def model(self, **changes: Any) -> TeraForPreTraining:
        """Return a fresh model with the recorded weights, in eval mode."""
        config = TeraConfig(**{**self.config.to_dict(), **changes})
        model = TeraForPreTraining(config).eval()
        model.load_state_dict(from_published(self.weights, config.share_layer))
        return model

    def compare(self, key: str, actual: Tensor, atol: float) -> None:
        """Compare with a recorded tensor and tick it off."""
        self.seen.add(key)
        self._compare(key, actual.detach(), self.recorded[key], atol=atol)

    def numbered(self, prefix: str) -> Iterator[int]:
        """Yield 0, 1, ... as long as ``prefix.{i}`` is recorded, alone or as a group."""
        index = 0
        while any(k == f"{prefix}.{index}" or k.startswith(f"{prefix}.{index}.") for k in self.recorded):
            yield index
            index += 1

    def take(self, key: str) -> Tensor:
        """Return a recorded tensor that is an input."""
        self.seen.add(key)
        return self.recorded[key]


def check(folder: pathlib.Path, compare: Compare) -> None:
    """Compare every tensor of one folder with ours.

    Args:
        folder: Holds ``config.json``, ``draws.json``, ``weights.safetensors``, ``io.safetensors`` and maybe
            an official ``states-*.ckpt`` with the same weights.
        compare: ``compare(name, actual, expected, *, atol, rtol=0.0)``; records and fails.
    """
    case = Case(folder, compare)
    model = case.model()
    _features(case)
    _encoder_from_audio(case, model)
    _encoder_from_features(case, model)
    _s3prl_interface(case, model.tera)
    for name in [n for n in case.draws if n != "chunk"]:
        _pretext_task(case, name)
    if "optim.loss" in case.recorded:
        _three_updates(case)
    for file in sorted(folder.glob("states-*.ckpt")):
        _official_file(case, file)
    left = sorted(case.recorded.keys() - case.seen)
    assert not left, f"recorded, but not compared: {left}"


def _waveforms(case: Case, prefix: str = "wav") -> list[Tensor]:
    return [case.take(f"{prefix}.{i}") for i in case.numbered(prefix)]


def _features(case: Case) -> None:
    """Each step of the front end on each utterance alone, then the published code's batch."""
    front_end, waveforms = case.front_end, _waveforms(case)
    if "fe.window" in case.recorded:
        case.compare("fe.window", features.hann_window(front_end.window), 1e-6)
    if "fe.mel_fb" in case.recorded:
        bank = features.mel_filters(front_end.n_fft, front_end.n_mels, front_end.sampling_rate)
        case.compare("fe.mel_fb", bank, 1e-5)
    for i, waveform in enumerate(waveforms):
        scaled = front_end.scale(waveform)
        spectrum = front_end.spectrum(scaled)
        steps = {
            "wav_norm": (scaled, 1e-6),
            "logmel": (spectrum, case.feature_atol),
            "fbank": (spectrum, case.feature_atol),
            "delta": (
                features.append_deltas(spectrum, front_end.deltas, front_end.delta_window),
                case.feature_atol,
            ),
            "feat": (front_end(waveform), case.feature_atol),
        }
        for step, (actual, atol) in steps.items():
            if f"fe.{step}.{i}" in case.recorded:
                case.compare(f"fe.{step}.{i}", actual, atol)
        if f"fe.power.{i}" in case.recorded:
            frames = features.centred_frames(scaled, front_end.n_fft, front_end.hop)
            power = features.power_spectrum(frames, front_end.window)
            case.compare(f"fe.power.{i}", power.float(), case.feature_atol)
    case.compare("fe.batch_feat", features.reference_batch(waveforms, front_end)[0], case.feature_atol)


def _encoder_from_audio(case: Case, model: TeraForPreTraining) -> None:
    """Hidden states from waveforms: the published batch, and each utterance alone and padded."""
    waveforms = _waveforms(case)
    length = len(case.recorded["enc.pos_enc"])
    positions = sinusoid_positions(length, case.config.hidden_size, torch.device("cpu"), torch.float32)
    case.compare("enc.pos_enc", positions, 1e-6)
    with torch.no_grad():
        values, mask = features.reference_batch(waveforms, case.front_end)
        case.compare("enc.batch.attn_mask", mask.float(), EXACT)
        output = model.tera(values, mask, output_hidden_states=True)
        for depth, states in enumerate(output.hidden_states):
            case.compare(f"enc.batch.hidden_{depth}", states, FROM_AUDIO)
        case.compare("head.batch.pred", model.head(output.last_hidden_state), FROM_AUDIO)
        case.compare("head.batch.state", model.head.transform(output.last_hidden_state), FROM_AUDIO)
        padded = case.processor(waveforms, sampling_rate=case.processor.sampling_rate)
        together = model.tera(**padded, output_hidden_states=True)
        for i, waveform in enumerate(waveforms):
            alone = model.tera(
                **case.processor(waveform, sampling_rate=case.processor.sampling_rate),
                output_hidden_states=True,
            )
            for name, depth in (("hidden_0", 0), ("hidden_last", -1)):
                key = f"enc.single.{i}.{name}"
                case.compare(key, alone.hidden_states[depth][0], FROM_AUDIO)
                case.compare(key, together.hidden_states[depth][i][padded["attention_mask"][i]], FROM_AUDIO)


def _encoder_from_features(case: Case, model: TeraForPreTraining) -> None:
    """Hidden states from given features, and long inputs in chunks."""
    with torch.no_grad():
        output = model.tera(case.take("direct.x"), case.take("direct.attn_mask"), output_hidden_states=True)
        for depth, states in enumerate(output.hidden_states):
            case.compare(f"direct.hidden_{depth}", states, FROM_FEATURES)
        case.compare("direct.pred", model.head(output.last_hidden_state), FROM_FEATURES)
        if "chunk" in case.draws:
            long = case.take("chunk.x")
            chunked = case.model(sequence_length=case.draws["chunk"]["max_input_length"]).tera(long)
            whole = case.model(sequence_length=0).tera(long)
            case.compare("chunk.hidden_last", chunked.last_hidden_state, FROM_FEATURES)
            case.compare("chunk.hidden_last_unchunked", whole.last_hidden_state, FROM_FEATURES)


def _s3prl_interface(case: Case, model: TeraModel) -> None:
    """The published wrapper: states cut or stretched to ceil(samples / hop) frames, weighted sum, mean."""
    if "s3prl.lens" not in case.recorded:
        return
    waveforms = _waveforms(case)
    hop = case.front_end.hop
    lengths = torch.tensor([-(-len(w) // hop) for w in waveforms])
    case.compare("s3prl.lens", lengths, EXACT)
    values, mask = features.reference_batch(waveforms, case.front_end)
    batch = {"input_values": values, "attention_mask": mask}
    expected = int(lengths.max())

    def fit(states: Tensor) -> Tensor:
        tail = states[:, -1:].expand(-1, max(0, expected - states.shape[1]), -1)
        return torch.cat([states, tail], dim=1)[:, :expected]

    with torch.no_grad():
        for depth in range(case.config.num_hidden_layers + 1):
            states, _ = model.token_states(batch, layer=depth)
            case.compare(f"s3prl.hidden_{depth}", fit(states), FROM_AUDIO)
        model.config.layer_weights = case.take("s3prl.layer_logits").tolist()
        weighted = fit(model.token_states(batch, layer="average")[0])
        model.config.layer_weights = []
    case.compare("s3prl.weighted_sum", weighted, FROM_AUDIO)
    pooled = torch.stack([states[:n].mean(0) for states, n in zip(weighted, lengths, strict=True)])
    case.compare("s3prl.mean_pooled", pooled, FROM_AUDIO)


def _pretext_task(case: Case, name: str) -> None:
    """Masks from the recorded draws, then prediction, loss and gradients from the recorded batch."""
    prefix = f"pre.{name}."
    recorded = case.draws[name]
    config = config_from_upstream({**case.settings, "task": recorded["task"]}, case.weights)
    collator = TeraCollator(case.processor, config, min_frames=0)
    draws = RecordedDraws(recorded["draws"])
    values, mask = features.reference_batch(_waveforms(case, "pre.wav"), case.front_end)
    views = [frames[real] for frames, real in zip(values, mask, strict=True)]
    batch = collator.collate_from(views, [draws] * len(views), draws)
    assert draws.exhausted(), f"{name}: fewer draws than recorded"
    target = case.take(prefix + "spec_target")
    case.compare(prefix + "spec_target", batch["labels"], case.feature_atol)
    case.compare(prefix + "attn_mask", batch["attention_mask"].float(), EXACT)
    case.compare(prefix + "mask_label", batch["label_mask"].to(torch.uint8), EXACT)
    masked = case.take(prefix + "spec_masked")
    if recorded["noise_applied"]:
        # The noise itself was not recorded, only that there was some; its spread can be checked.
        noise = (masked - batch["input_values"]).std()
        case._compare(prefix + "noise_std", noise, torch.tensor(float(config.noise_std)), atol=0.02)
    else:
        case.compare(prefix + "spec_masked", batch["input_values"], case.feature_atol)
        # From the recorded target the altered frames are copies and zeros: exact.
        lengths = batch["attention_mask"].sum(1).tolist()
        again = RecordedDraws(recorded["draws"])
        clean = [frames[:n] for frames, n in zip(target, lengths, strict=True)]
        exact = collator.collate_from(clean, [again] * len(clean), again)
        case.compare(prefix + "spec_masked", exact["input_values"], EXACT)
    model = TeraForPreTraining(config).eval()
    model.load_state_dict(from_published(case.weights, config.share_layer))
    output = model(masked, target, case.recorded[prefix + "mask_label"], case.recorded[prefix + "attn_mask"])
    case.compare(prefix + "pred", output.predictions, FROM_FEATURES)
    case.compare(prefix + "loss", output.loss.reshape(1), 1e-6)
    output.loss.backward()
    _compare_named(case, prefix + "grad.", {n: p.grad for n, p in model.named_parameters()}, 1e-6)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    case.compare(prefix + "grad_norm", norm.reshape(1), 1e-6)


def _three_updates(case: Case) -> None:
    """Three clipped updates on the first pretext case."""
    name = next(n for n in case.draws if n != "chunk")
    settings = case.settings["optimizer"]
    model = case.model()
    optimizer = TeraAdamW(model.parameter_groups(weight_decay=0.01), lr=settings["lr"])
    batch = [case.recorded[f"pre.{name}.{key}"] for key in ("spec_masked", "spec_target", "mask_label", "attn_mask")]
    factor = schedule_factor("linear", settings["total_steps"], settings["warmup_proportion"])
    losses, rates, norms = [], [], []
    for taken in range(len(case.recorded["optim.loss"])):
        rate = settings["lr"] * factor(taken)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(*batch).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), settings["gradient_clipping"]))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        rates.append(rate)
    case.compare("optim.loss", torch.stack(losses), 1e-6)
    case.compare("optim.lr", torch.tensor(rates, dtype=torch.float64), 1e-12)
    case.compare("optim.grad_norm", torch.stack(norms), 1e-6)
    _compare_named(case, "optim.after.", dict(model.named_parameters()), 1e-6)


def _compare_named(case: Case, prefix: str, ours: dict[str, Tensor], atol: float) -> None:
    """Compare the tensors recorded under ``prefix`` and a published weight name with ours of that name."""
    for key in [k for k in case.recorded if k.startswith(prefix)]:
        case.compare(key, ours[our_name(key.removeprefix(prefix))], atol)


def _official_file(case: Case, file: pathlib.Path) -> None:
    """The official container, converted and loaded back, gives the recorded states."""
    with tempfile.TemporaryDirectory() as folder:
        convert(file, pathlib.Path(folder))
        model = TeraModel.from_pretrained(folder)
        processor = TeraProcessor.from_pretrained(folder)
    assert processor.to_dict() == case.processor.to_dict()
    stem = re.sub(r"\W", "_", file.stem)
    with torch.no_grad():
        for i, waveform in enumerate(_waveforms(case)):
            batch = processor(waveform, sampling_rate=processor.sampling_rate)
            states = model(**batch).last_hidden_state[0]
            case._compare(f"{stem}.single.{i}", states, case.recorded[f"enc.single.{i}.hidden_last"], atol=FROM_AUDIO)

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import hub
from domains.music.audio import Audio
from domains.music.mert.collation import MertCollator
from domains.music.mert.configuration import MertConfig
from domains.music.mert.conversion import convert
from domains.music.mert.cqt import constant_q, folded
from domains.music.mert.mixture import add_pieces, draw_pieces, place_pieces
from domains.music.mert.modeling import MertModel
from domains.music.mert.pretraining import MertForPreTraining
from domains.music.mert.processing import MertProcessor, normalised
from domains.music.mert.targets import KMeansTeacher
from domains.music.mert.windowing import windows_of
from hub.errors import InvalidCheckpoint, InvalidRecipe
from hub.reading import Sample
from hub.training.collation import seeded_generator

SMALL: dict[str, Any] = {
    "sample_rate": 16_000,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "codebooks": 2,
    "codebook_size": 8,
    "code_dim": 8,
    "cqt_bins": 84,
    "window_frames": 49,
    "window_overlap": 10,
}


def model(**changes: Any) -> MertModel:
    torch.manual_seed(0)
    return MertModel(MertConfig(**SMALL | changes)).eval()


def tone(seconds: float, hertz: float = 220.0, rate: int = 16_000) -> torch.Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    noise = torch.randn(len(time), generator=seeded_generator(int(hertz)))
    return torch.sin(2 * torch.pi * hertz * time) + 0.1 * noise


def test_published_sizes() -> None:
    with torch.device("meta"):
        assert MertModel(MertConfig()).num_parameters() == 94_371_712
        large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        assert MertModel(MertConfig(**large, do_stable_layer_norm=True)).num_parameters() == 315_428_992


def test_frames_of_a_waveform() -> None:
    counts = {399: 0, 400: 1, 720: 2, 16_000: 49, 24_000: 74, 120_000: 374, 122_880: 383, 720_000: 2249}
    assert {n: MertConfig().frames(n) for n in counts} == counts
    small = model()
    assert [small.features(torch.randn(1, n)).shape[1] for n in (400, 719, 720, 16_000)] == [1, 1, 2, 49]


@pytest.mark.parametrize(
    ("frames", "width", "overlap"), [(1, 10, 3), (10, 10, 3), (11, 10, 3), (100, 10, 9), (57, 0, 0)]
)
def test_windows_keep_every_frame_once(frames: int, width: int, overlap: int) -> None:
    windows = windows_of(frames, width, overlap)
    assert [f for w in windows for f in range(w.kept_from, w.kept_to)] == list(range(frames))
    assert all(w.start <= w.kept_from < w.kept_to <= w.stop for w in windows)
    assert len({w.stop - w.start for w in windows}) == 1


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("before", [False, True])
def test_a_recording_is_encoded_alike_alone_and_in_any_batch(norm: str, before: bool) -> None:
    small, processor = model(feat_extract_norm=norm, do_stable_layer_norm=before), MertProcessor(16_000)
    waveforms = [tone(0.2), tone(1.0, 330), tone(3.3, 440), tone(0.025, 550)]
    together = small.embed(processor.pad(waveforms), pooling="none", layer="all")
    for waveform, states in zip(waveforms, together, strict=True):
        alone = small.embed(processor.pad([waveform]), pooling="none", layer="all")[0]
        torch.testing.assert_close(states, alone, atol=1e-5, rtol=0)
        assert len(states) == small.config.frames(len(waveform))


def test_a_long_recording_is_that_of_its_windows() -> None:
    small, waveform = model(), tone(2.5)
    states = small(waveform[None]).last_hidden_state[0]
    size = 48 * 320 + 400
    for window in small.windows(len(waveform)):
        piece = small(waveform[None, window.start * 320 : window.start * 320 + size]).last_hidden_state[0]
        kept = slice(window.kept_from - window.start, window.kept_to - window.start)
        torch.testing.assert_close(states[window.kept_from : window.kept_to], piece[kept], atol=1e-5, rtol=0)
    (parts,) = small.embed_windows({"input_values": waveform[None]}, [])
    assert parts[0]["start"] == 0 and parts[-1]["stop"] == pytest.approx(len(states) / 50)
    expected = states[: round(parts[0]["stop"] * 50)].mean(0)
    torch.testing.assert_close(torch.tensor(parts[0]["embedding"]), expected, atol=1e-5, rtol=0)


def test_layers_are_chosen_and_weighted() -> None:
    small, batch = model(layer_weights=[0.0, 1.0, -1.0]), {"input_values": tone(2.0)[None]}
    states = small(**batch, output_hidden_states=True).hidden_states
    for layer in (0, 1, -1, -3):
        torch.testing.assert_close(small.token_states(batch, layer)[0], states[layer])
    weights = torch.tensor([0.0, 1.0, -1.0]).softmax(0)
    mixed = sum(w * s for w, s in zip(weights, states, strict=True))
    torch.testing.assert_close(small.token_states(batch, "average")[0], mixed)
    torch.testing.assert_close(small.token_states(batch, "all")[0], torch.cat(states, -1))


def test_loudness_and_offset_change_nothing_and_silence_is_finite() -> None:
    small, processor, clip = model(), MertProcessor(16_000), tone(0.5).numpy()

    def vector(samples: np.ndarray) -> torch.Tensor:
        sample = Sample(Audio(samples[None].astype(np.float32), 16_000))
        return small.embed(processor.pad([processor.prepare(sample)]))[0]

    for changed in (0.01 * clip, 10 * clip, 0.5 * clip + 0.2):
        torch.testing.assert_close(vector(changed), vector(clip), atol=2e-3, rtol=0)
    assert torch.isfinite(vector(np.zeros(8000))).all()
    # Shorter than the 400 samples of a frame: silence follows, after the level was taken.
    filled = torch.cat([normalised(torch.from_numpy(clip[:320])), torch.zeros(80)])
    torch.testing.assert_close(vector(clip[:320]), small.embed({"input_values": filled[None]})[0])


def test_a_spectrum_beside_the_waveform_needs_its_rate() -> None:
    fused = model(feature_extractor_cqt=True, feature_extractor_cqt_bins=84)
    assert fused(tone(1.0)[None]).last_hidden_state.shape == (1, 49, 32)
    with pytest.raises(Exception, match="frames at 50 Hz"):
        MertConfig(sample_rate=24_000, feature_extractor_cqt=True)


def test_folded_octaves_tell_pitch_classes_whatever_the_octave_and_level() -> None:
    time = torch.arange(16_000) / 16_000
    a2, a4, d4 = (torch.sin(2 * torch.pi * f * time)[None] for f in (110.0, 440.0, 293.66))
    chroma = [folded(constant_q(w, 16_000, 320, 84))[0, 25] for w in (a2, a4, 0.1 * a4, d4)]
    assert [int(c.argmax()) for c in chroma] == [9, 9, 9, 2]  # bins start at C
    torch.testing.assert_close(chroma[2], chroma[1], atol=1e-3, rtol=0)
    assert float(folded(torch.zeros(1, 3, 84)).abs().max()) == 0
    # The same whether the spectrum was compressed or not.
    options: dict[str, Any] = {"feature_extractor_cqt": True, "feature_extractor_cqt_bins": 84}
    plain, squeezed = (model(**options, feature_extractor_chroma=2.0, cqt_compression=c) for c in (0.0, 100.0))
    read: list[torch.Tensor] = []
    for small in (plain, squeezed):
        small.feature_projection.register_forward_pre_hook(lambda _, given: read.append(given[0][..., -12:]))
        small(a4)
    torch.testing.assert_close(read[0], read[1], atol=1e-4, rtol=0)
    assert float(read[0].detach().norm(dim=-1)[0, 25]) == pytest.approx(2.0, abs=1e-3)
    with pytest.raises(Exception, match="needs feature_extractor_cqt"):
        MertConfig(sample_rate=16_000, feature_extractor_chroma=1.0)


def test_deepnorm_starts_smaller() -> None:
    plain, deep = model(), model(deepnorm=True)
    ratio = [
        (m.encoder.layers[0].feed_forward.output_dense.weight.std(), m.encoder.layers[0].attention.q_proj.weight.std())
        for m in (plain, deep)
    ]
    assert float(ratio[1][0] / ratio[0][0]) == pytest.approx(16**-0.25, rel=0.1)
    assert float(ratio[1][1] / ratio[0][1]) == pytest.approx(1.0, rel=0.1)


def test_noise_is_mixed_in_training_alone_and_leaves_the_callers_tensor() -> None:
    drawn = torch.stack([draw_pieces(seeded_generator(i), 1.0, 3, 100, 200) for i in range(4)])
    clean = torch.randn(4, 1000)
    kept = clean.clone()
    mixed = add_pieces(clean, place_pieces(drawn, 1000))
    assert torch.equal(clean, kept) and not torch.equal(mixed, kept)
    assert place_pieces(drawn[:1], 1000) == [[]]
    task = MertForPreTraining(MertConfig(**SMALL | {"hidden_dropout": 0.0, "attention_dropout": 0.0})).eval()
    batch = {
        "input_values": torch.randn(4, 8000),
        "codes": torch.randint(8, (4, 24, 2)),
        "masked": torch.arange(24).expand(4, 24) % 2 == 0,
    }
    noise = torch.stack([draw_pieces(seeded_generator(i), 1.0, 3, 1000, 2000) for i in range(4)])
    assert torch.equal(task(**batch).loss, task(**batch, noise=noise).loss)
    assert not torch.equal(task.train()(**batch).states, task(**batch, noise=noise).states)


def pretext(**changes: Any) -> tuple[MertForPreTraining, dict[str, torch.Tensor]]:
    """Return a task without dropout, in training, and a batch of it whose third clip gets noise."""
    torch.manual_seed(0)
    none = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0}
    task = MertForPreTraining(MertConfig(**SMALL | none | changes)).train()
    noise = torch.zeros(4, 1, 3)
    noise[2] = torch.tensor([3000.0, 0.5, 0.25])
    batch = {
        "input_values": torch.stack([tone(0.5, 220.0 * n) for n in range(1, 5)]),
        "codes": torch.randint(8, (4, 24, 2)),
        "masked": torch.arange(24).expand(4, 24) % 3 == 0,
        "noise": noise,
    }
    return task, batch


def test_frames_that_are_not_masked_can_be_predicted_too() -> None:
    task, batch = pretext()
    masked = task(**batch).loss
    other = task(**batch, attention_mask=None)
    logits = task.code_head(other.states[~batch["masked"]]).flatten(0, 1)
    targets = (batch["codes"][~batch["masked"]] + task.config.special_codes).flatten()
    task.config.unmasked_weight = 0.5
    expected = masked + 0.5 * 2 * torch.nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(task(**batch).loss, expected)


def test_a_spectrum_that_is_read_and_predicted_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = pretext(feature_extractor_cqt=True, feature_extractor_cqt_bins=84, cqt_compression=10.0)
    computed: list[int] = []
    honest = task.mert.constant_q
    monkeypatch.setattr(task.mert, "constant_q", lambda w, bins: (computed.append(len(w)), honest(w, bins))[1])
    once = task(**batch)
    assert computed == [4, 1]  # all clips, then the one with noise
    monkeypatch.setattr(task, "_heard_spectrum", lambda *given: None)
    torch.testing.assert_close(once.states, task(**batch).states)


def test_codes_do_not_depend_on_gain_and_tell_pitches() -> None:
    teacher = KMeansTeacher.of_tones(16_000, 320, 32)
    low, high = (teacher.codes(tone(0.5, f), 16_000, 320) for f in (220.0, 311.1))
    assert torch.equal(teacher.codes(0.01 * tone(0.5), 16_000, 320), low)
    assert low.shape == (26, 2) and (low[:, 1] != high[:, 1]).float().mean() > 0.9


def test_kept_codes_of_another_teacher_are_refused() -> None:
    config = MertConfig(**SMALL)
    collator = MertCollator(MertProcessor(16_000), config, 8000, 4000, teacher="kmeans")
    prepared = collator.prepare(Sample(Audio(tone(1.0).numpy()[None], 16_000)))
    waveform, codes = collator.view(prepared, seeded_generator(1))
    assert len(waveform) == 8000 and codes.shape == (24, 2)
    with pytest.raises(InvalidRecipe, match="another teacher"):
        collator.view(prepared | {"teacher": "encodec"}, seeded_generator(1))


def published(folder: Path, **changes: Any) -> MertModel:
    """Write a checkpoint as its authors do, with the older names of weight normalisation."""
    small = model()
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = {}
    for name, tensor in small.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        weights[name] = tensor.clone()
    save_file(weights, folder / "model.safetensors")
    settings = {k: v for k, v in small.config.to_dict().items() if k in SMALL or k == "do_stable_layer_norm"}
    settings |= {"model_type": "mert_model", "architectures": ["MERTModel"], "attention_relax": 32.0} | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true, "sampling_rate": 16000}')
    return small


def test_published_checkpoints_load_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FMHUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "theirs"
    folder.mkdir()
    small = published(folder)
    embedder = hub.from_pretrained(folder)
    batch = {"input_values": tone(0.9)[None]}
    torch.testing.assert_close(embedder.model(**batch).last_hidden_state, small(**batch).last_hidden_state)
    assert embedder.processor.do_normalize and embedder.processor.sampling_rate == 16_000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mert2"}, "MERT-v2, another architecture"),
        ({"do_stable_layer_norm": None}, "does not say do_stable_layer_norm"),
        ({"hidden_size": 64}, "Of another shape"),
        ({"num_hidden_layers": 3}, "Missing: encoder.layers.2"),
        ({"sample_rate": 24_000}, "they must agree"),
    ],
)
def test_wrong_checkpoints_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    published(tmp_path, **changes)
    with pytest.raises(InvalidCheckpoint, match=reason):
        convert(tmp_path / "model.safetensors", tmp_path / "out")


def training_file(folder: Path, with_configuration: bool, monkeypatch: pytest.MonkeyPatch) -> MertForPreTraining:
    """Write a checkpoint as the training code does: fairseq's names, and its configuration as omegaconf objects."""
    torch.manual_seed(0)
    task = MertForPreTraining(MertConfig(**SMALL))
    renames = {
        "mert.masked_spec_embed": "mask_emb",
        "mert.feature_projection.layer_norm": "layer_norm",
        "mert.feature_projection.projection": "post_extract_proj",
        "pos_conv_embed.conv.parametrizations.weight.original0": "pos_conv.0.weight_g",
        "pos_conv_embed.conv.parametrizations.weight.original1": "pos_conv.0.weight_v",
        "pos_conv_embed.conv.bias": "pos_conv.0.bias",
        ".attention.": ".self_attn.",
        "feed_forward.intermediate_dense": "fc1",
        "feed_forward.output_dense": "fc2",
        "code_head.projection": "final_proj",
        "code_head.embeddings": "label_embs_concat",
        "cqt_head": "encoder_cqt_model.fc",
        ".conv.weight": ".0.weight",
        "conv_layers.0.layer_norm": "conv_layers.0.2",
        "mert.": "",
    }
    weights = {}
    for name, tensor in task.state_dict().items():
        if ".layers." in name and "final" not in name:
            name = name.replace(".layer_norm", ".self_attn_layer_norm")
        for ours, theirs in renames.items():
            name = name.replace(ours, theirs)
        weights[name] = tensor.flatten(0, 1) if name == "label_embs_concat" else tensor
    weights["encoder_cqt_model.spec_layer.cqt_kernels_real"] = torch.zeros(3)
    content: dict[str, Any] = {"model": weights, "optimizer_history": []}
    if with_configuration:
        module = types.ModuleType("omegaconf.dictconfig")
        kind = type("DictConfig", (), {"__module__": module.__name__})
        module.DictConfig = kind  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        monkeypatch.setitem(sys.modules, module.__name__, module)

        def node(**values: Any) -> Any:
            made = kind()
            made.__dict__["_content"] = values
            return made

        options = {"layer_norm_first": False, "encoder_attention_heads": 2}
        content["cfg"] = node(model=node(**options), task=node(sample_rate=16_000))
    torch.save(content, folder / "checkpoint.pt")
    return task


def test_training_checkpoints_keep_their_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = training_file(tmp_path, True, monkeypatch)
    convert(tmp_path / "checkpoint.pt", tmp_path / "out")
    loaded = MertForPreTraining.from_pretrained(tmp_path / "out")
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_training_checkpoints_must_tell_their_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_file(tmp_path, False, monkeypatch)
    with pytest.raises(InvalidCheckpoint, match="layer_norm_first=0"):
        convert(tmp_path / "checkpoint.pt", tmp_path / "out")

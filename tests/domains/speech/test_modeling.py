from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from domains.speech.tera import modeling
from domains.speech.tera.configuration import TeraConfig
from domains.speech.tera.modeling import TeraModel, sinusoid_positions
from domains.speech.tera.pretraining import TeraForPreTraining
from hub.errors import UnsupportedOption

CPU = torch.device("cpu")


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(model: TeraModel, x: torch.Tensor) -> list[torch.Tensor]:
    """The encoder's equations on one utterance ``(frames, features)``, one head at a time, in float64."""
    config = model.config
    p = {n: t.double() for n, t in model.state_dict().items()}
    width, heads = config.hidden_size, config.num_attention_heads

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return value @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        centred = value - value.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return centred / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attention(name: str, value: torch.Tensor) -> torch.Tensor:
        query, key, content = (linear(f"{name}.{part}", value) for part in ("query", "key", "value"))
        size = width // heads
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            mixed.append(scores.softmax(-1) @ content[:, part])
        return linear(f"{name}.output", torch.cat(mixed, dim=-1))

    def feed_forward(name: str, value: torch.Tensor) -> torch.Tensor:
        wide = linear(f"{name}.expand", value)
        return linear(f"{name}.contract", wide * (1 + torch.erf(wide / math.sqrt(2))) / 2)

    position = [
        [(math.cos if j % 2 else math.sin)(t / 10_000 ** (2 * (j // 2) / width)) for j in range(width)]
        for t in range(len(x))
    ]
    state = norm("input.norm", linear("input.projection", x.double()) + torch.tensor(position).double())
    states = [state]
    for depth in range(config.num_hidden_layers):
        layer = f"layers.{0 if config.share_layer else depth}"
        if config.pre_layer_norm:
            state = state + attention(f"{layer}.attention", norm(f"{layer}.attention_norm", state))
            state = state + feed_forward(layer, norm(f"{layer}.output_norm", state))
        else:
            state = norm(f"{layer}.attention_norm", state + attention(f"{layer}.attention", state))
            state = norm(f"{layer}.output_norm", state + feed_forward(layer, state))
        states.append(state)
    if config.pre_layer_norm:
        states = [norm(f"hidden_norms.{depth}", state) for depth, state in enumerate(states)]
    return states


@pytest.mark.parametrize("share_layer", [False, True])
@pytest.mark.parametrize("pre_layer_norm", [False, True])
def test_hidden_states_are_those_of_the_equations(share_layer, pre_layer_norm, config, shaken):
    config = TeraConfig(**{**config.to_dict(), "share_layer": share_layer, "pre_layer_norm": pre_layer_norm})
    model = TeraModel(config).eval()
    shaken(model)
    x = frames(37, 80)
    with torch.no_grad():
        output = model(x[None], output_hidden_states=True)
    expected = by_hand(model, x)
    assert len(output.hidden_states) == model.num_hidden_states == len(expected) == 3
    for ours, theirs in zip(output.hidden_states, expected, strict=True):
        torch.testing.assert_close(ours[0].double(), theirs, atol=1e-5, rtol=0)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    names = {n.split(".")[1] for n, _ in model.named_parameters() if n.startswith("layers.")}
    assert names == ({"0"} if share_layer else {"0", "1"})


def test_it_is_the_encoder_of_bert(model, config):
    """transformers' own BERT encoder with these weights agrees, so the layout is the published one."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertEncoder

    bert = BertEncoder(
        BertConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            layer_norm_eps=1e-12,
            attn_implementation="sdpa",
        )
    ).eval()
    names = {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "expand": "intermediate.dense",
        "contract": "output.dense",
        "output_norm": "output.LayerNorm",
    }
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("layers."):
            _, depth, rest = name.split(".", 2)
            stem, kind = rest.rsplit(".", 1)
            state[f"layer.{depth}.{names[stem]}.{kind}"] = tensor
    bert.load_state_dict(state)
    x = frames(2, 30, 80)
    with torch.no_grad():
        ours = model(x, output_hidden_states=True)
        theirs = bert(ours.hidden_states[0]).last_hidden_state
    torch.testing.assert_close(ours.last_hidden_state, theirs, atol=1e-5, rtol=0)


def test_alone_and_padded_beside_a_ten_times_longer_one_are_the_same(model, processor, voices):
    long = voices[1].repeat(6)
    with torch.no_grad():
        together = model.embed(processor([voices[2], long], sampling_rate=16_000), pooling="none")
        alone = model.embed(processor(voices[2], sampling_rate=16_000), pooling="none")
        torch.testing.assert_close(together[0], alone[0], atol=1e-5, rtol=0)
        for pooling in (*model.poolings, "mean_std"):
            together = model.embed(processor([voices[2], long], sampling_rate=16_000), pooling=pooling)
            alone = model.embed(processor(voices[2], sampling_rate=16_000), pooling=pooling)
            torch.testing.assert_close(together[0], alone[0], atol=1e-5, rtol=0)


def test_what_lies_in_the_padding_does_not_matter(model):
    x, mask = frames(2, 40, 80), torch.ones(2, 40, dtype=torch.bool)
    mask[1, 25:] = False
    other = x.clone()
    other[1, 25:] = 1e3
    with torch.no_grad():
        first, second = model(x, mask).last_hidden_state, model(other, mask).last_hidden_state
    torch.testing.assert_close(first[mask], second[mask], atol=1e-6, rtol=0)


def test_a_batch_that_is_all_real_needs_no_mask(model):
    x = frames(3, 21, 80)
    with torch.no_grad():
        without = model(x)
        given = model(x, torch.ones(3, 21, dtype=torch.long))
    assert without.mask.all()
    assert without.mask.shape == (3, 21)
    torch.testing.assert_close(without.last_hidden_state, given.last_hidden_state, atol=1e-6, rtol=0)


def test_long_inputs_are_cut_in_equal_chunks_by_their_own_length(config, shaken):
    """Rows of 150, 90, 64 and 20 frames at 64: three, two, one and one chunks, whatever stands beside them."""
    model = TeraModel(TeraConfig(**{**config.to_dict(), "sequence_length": 64})).eval()
    shaken(model)
    lengths = [150, 90, 64, 20]
    rows = [frames(n, 80, seed=n) for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(150) < torch.tensor(lengths).unsqueeze(1)
    whole = copy.deepcopy(model)
    whole.config.sequence_length = 0
    with torch.no_grad():
        output = model(padded, mask, output_hidden_states=True)
        for index, row in enumerate(rows):
            count = math.ceil(len(row) / 64)
            parts = torch.chunk(row, count)
            assert len(parts) == count
            expected = torch.cat([whole(part[None]).last_hidden_state[0] for part in parts])
            found = output.last_hidden_state[index, : len(row)]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            alone = model(row[None], output_hidden_states=True)
            for ours, theirs in zip(alone.hidden_states, output.hidden_states, strict=True):
                torch.testing.assert_close(ours[0], theirs[index, : len(row)], atol=1e-5, rtol=0)
        assert output.last_hidden_state.isfinite().all()
        assert (model(rows[0][None]).last_hidden_state - whole(rows[0][None]).last_hidden_state).abs().max() > 0.01


def test_chunks_are_encoded_in_groups(config, shaken, monkeypatch):
    model = TeraModel(TeraConfig(**{**config.to_dict(), "sequence_length": 16})).eval()
    shaken(model)
    x = frames(2, 130, 80)
    with torch.no_grad():
        at_once = model(x).last_hidden_state
        monkeypatch.setattr(modeling, "CHUNK_FRAMES", 40)
        torch.testing.assert_close(model(x).last_hidden_state, at_once, atol=1e-6, rtol=0)


def test_positions_are_the_formula_and_survive_inference_mode():
    modeling._position_table.cache_clear()
    with torch.inference_mode():
        sinusoid_positions(10, 6, CPU, torch.float32)
    table = sinusoid_positions(700, 6, CPU, torch.float32)
    assert table.shape == (700, 6)
    assert not table.is_inference()
    assert table[3, 4].item() == pytest.approx(math.sin(3 / 10_000 ** (4 / 6)), abs=1e-7)
    assert table[699, 5].item() == pytest.approx(math.cos(699 / 10_000 ** (4 / 6)), abs=1e-6)


def test_layers_can_be_chosen_averaged_and_joined(model, processor, samples):
    batch = processor(samples)
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
    mask = batch["attention_mask"]
    for layer in (0, 1, 2, -1, -3):
        chosen = model.embed(batch, pooling="none", layer=layer)
        torch.testing.assert_close(chosen[2], states[layer][2][mask[2]], atol=1e-6, rtol=0)
    joined = model.embed(batch, pooling="mean", layer="all")
    assert joined[0].shape == (96,)
    average = model.embed(batch, pooling="none", layer="average")
    torch.testing.assert_close(average[0], torch.stack(states).mean(0)[0][mask[0]], atol=1e-6, rtol=0)
    model.config.layer_weights = [0.0, 1.0, -1.0]
    weights = torch.tensor(model.config.layer_weights).softmax(0)
    weighted = sum(w * s for w, s in zip(weights, states, strict=True))
    found = model.embed(batch, pooling="none", layer="average")
    torch.testing.assert_close(found[1], weighted[1][mask[1]], atol=1e-6, rtol=0)
    with pytest.raises(UnsupportedOption, match="3 hidden states"):
        model.embed(batch, layer=3)


@pytest.mark.parametrize("share_layer", [False, True])
@pytest.mark.parametrize("pre_layer_norm", [False, True])
def test_a_round_trip_through_files_is_exact(share_layer, pre_layer_norm, config, shaken, tmp_path, caplog):
    config = TeraConfig(**{**config.to_dict(), "share_layer": share_layer, "pre_layer_norm": pre_layer_norm})
    pretext = TeraForPreTraining(config).eval()
    shaken(pretext)
    pretext.save_pretrained(tmp_path / "pretext")
    pretext.tera.save_pretrained(tmp_path / "encoder")
    x = frames(2, 19, 80)
    with torch.no_grad():
        expected = pretext.tera(x).last_hidden_state
        logging.getLogger("transformers").propagate = True
        with caplog.at_level(logging.WARNING):
            for folder in ("pretext", "encoder"):
                for loader in (TeraModel, AutoModel):
                    loaded, report = loader.from_pretrained(tmp_path / folder, output_loading_info=True)
                    assert type(loaded) is TeraModel
                    assert not loaded.training
                    assert not report["missing_keys"]
                    assert not report["unexpected_keys"]
                    assert torch.equal(loaded(x).last_hidden_state, expected)
                for loader in (TeraForPreTraining, AutoModelForPreTraining):
                    loaded = loader.from_pretrained(tmp_path / folder)
                    assert type(loaded) is TeraForPreTraining
                    assert torch.equal(loaded.tera(x).last_hidden_state, expected)
            assert not caplog.records
    whole = TeraForPreTraining.from_pretrained(tmp_path / "pretext")
    for name, tensor in pretext.state_dict().items():
        assert torch.equal(whole.state_dict()[name], tensor)


def test_configuration_round_trip_keeps_every_field(tmp_path):
    config = TeraConfig(hidden_size=24, num_attention_heads=3, loss="MSE", mask_proportion=0, layer="average")
    config.save_pretrained(tmp_path)
    for loaded in (TeraConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is TeraConfig
        left, right = loaded.to_dict(), config.to_dict()
        for volatile in ("_name_or_path", "transformers_version", "architectures"):
            left.pop(volatile, None), right.pop(volatile, None)
        assert left == right
    assert TeraConfig(input_dim=240).output_dim == 240


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 30, "num_attention_heads": 4},
        {"hidden_size": "768"},
        {"num_hidden_layers": 0},
        {"sequence_length": -1},
        {"mask_proportion": 1.5},
        {"mask_frequency": 1.0},
        {"mask_consecutive_min": 9, "mask_consecutive_max": 7},
        {"mask_bucket_ratio": 0.5},
        {"loss": "L2"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_configuration_is_refused(wrong):
    with pytest.raises(Exception, match=next(iter(wrong)) + "|Validation"):
        TeraConfig(**wrong)


def test_bfloat16_stays_near_float32(model):
    x = frames(2, 50, 80)
    mask = torch.ones(2, 50, dtype=torch.bool)
    mask[0, 30:] = False
    with torch.no_grad():
        expected = model(x, mask).last_hidden_state
        half = copy.deepcopy(model).to(torch.bfloat16)(x, mask).last_hidden_state
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(x, mask).last_hidden_state
    assert half.dtype == torch.bfloat16
    for approximate in (half.float(), mixed.float()):
        assert F.cosine_similarity(approximate[mask], expected[mask]).min() > 0.99


def test_initial_weights_follow_the_configuration():
    model = TeraModel(TeraConfig(hidden_size=128, num_attention_heads=4, intermediate_size=256))
    query = model.layers[0].attention.query
    assert query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (query.bias == 0).all()
    assert (model.input.norm.weight == 1).all()


def test_fresh_dropout_is_off_after_loading_and_on_in_training(model):
    x = frames(1, 20, 80)
    with torch.no_grad():
        assert torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)
        model.train()
        assert not torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from domains.network.flow import Flow
from domains.network.netfound.configuration import NetFoundConfig
from domains.network.netfound.layers import rotate, sinusoids
from domains.network.netfound.modeling import NetFoundModel
from domains.network.netfound.processing import NetFoundProcessor
from domains.network.netfound.vocabulary import EXACT, LEVELS, NAMES, FieldVocabulary, levels
from hub.errors import InvalidInput
from hub.reading import Sample

PUBLISHED = {"vocab_size": 65_600, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHARP = {"initializer_range": 0.2}
"""With the published 0.02 a fresh model attends to everything alike."""


def a_model(**fields: object) -> NetFoundModel:
    torch.manual_seed(0)
    return NetFoundModel(NetFoundConfig(**{**PUBLISHED, **fields})).eval()


def test_levels_are_exact_for_small_values_and_logarithmic_for_large_ones() -> None:
    found = levels(np.arange(65_536).astype(np.uint16))
    assert (found[:EXACT] == np.arange(EXACT)).all()
    assert found.max() == LEVELS - 1 and (np.diff(found) >= 0).all() and len(np.unique(found)) == LEVELS
    firsts = np.flatnonzero(np.diff(found[EXACT:])) + EXACT + 1
    assert (firsts[1:] / firsts[:-1]).max() < 1.05


def test_the_same_value_in_another_field_is_another_token() -> None:
    packet = np.full((1, 18), 64, np.uint16)
    vocabulary = FieldVocabulary()
    tcp, udp = vocabulary.ids(packet, 6)[0], vocabulary.ids(packet[:, :6], 17)[0]
    assert len(set(tcp)) == 18 and (tcp[:5] == udp[:5]).all() and tcp[5] != udp[5]
    assert tcp.min() >= vocabulary.values[0] and tcp.max() < vocabulary.values[1]
    assert len(NAMES) * LEVELS + 3 == vocabulary.size


def test_flows_become_the_published_ids(a_flow: Callable) -> None:
    flow = a_flow(3).data
    features = NetFoundProcessor().prepare(Sample(flow))
    packets = flow.burst_tokens[1].reshape(2, 18)[:, :12].reshape(-1)
    assert features.bursts[1].tolist() == [65_537, *(packets.astype(int) + 1)]
    assert features.metadata[1].tolist() == [
        1.0 if flow.directions[1] else -1.0,
        float(flow.bytes[1]),
        2.0,
        float(int(flow.iats[1]) // 1000),
    ]
    with_payload = NetFoundProcessor(strip_payload=False, max_burst_length=109).prepare(Sample(flow))
    assert len(with_payload.bursts[1]) == 37
    assert NetFoundProcessor().cost(Sample(flow)) == 3 * 25


def test_flows_of_other_protocols_and_empty_ones_are_refused(a_flow: Callable) -> None:
    flow = a_flow(1).data
    for changes, text in (({"protocol": 47}, "TCP"), ({"burst_tokens": []}, "no packet")):
        with pytest.raises(InvalidInput, match=text):
            NetFoundProcessor().prepare(Sample(Flow(**{**vars(flow), **changes})))


def test_mean_deviation_and_maximum_side_by_side(a_flow: Callable) -> None:
    model, batch = a_model(), NetFoundProcessor()([a_flow(3), a_flow(1, 17, 1, seed=1)])
    (states, alone) = model.embed(batch, pooling="none"), model.embed(batch, pooling="mean_std_max", layer="all")
    found = torch.stack(model.embed(batch, pooling="mean_std_max"))
    by_hand = [torch.cat([s.mean(0), s.std(0, correction=0), s.amax(0)]) for s in states]
    assert torch.allclose(found, torch.stack(by_hand), atol=1e-5)
    assert len(alone[0]) == model.embedding_dimension("mean_std_max", "all") == 3 * 3 * 32


@pytest.mark.parametrize("generation", [1, 2])
def test_an_embedding_does_not_depend_on_its_batch_unless_asked_to(generation: int, a_flow: Callable) -> None:
    positions = "rotary" if generation == 2 else "learned"
    samples = [a_flow(5), a_flow(1, 17, 1, seed=1), a_flow(12, 6, 6, seed=2), a_flow(2, 1, seed=3)]
    processor = NetFoundProcessor()
    for reference in (False, True):
        model = a_model(generation=generation, positions=positions, reference_padding=reference)
        together = torch.stack(model.embed(processor(samples)))
        alone = torch.stack([model.embed(processor(one))[0] for one in samples])
        difference = float((together - alone).abs().max())
        assert (difference > 0.1) if reference else (difference < 1e-5)


def test_states_are_those_of_the_published_padding_where_tokens_are_real(a_flow: Callable) -> None:
    batch = NetFoundProcessor()([a_flow(5), a_flow(1, 17, 1, seed=1)])
    ours, theirs = a_model(), a_model(reference_padding=True)
    mask = batch["attention_mask"].flatten(1)
    one, other = (m(**batch, output_hidden_states=True).hidden_states for m in (ours, theirs))
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left[mask], right[mask], atol=1e-5, rtol=0)


def test_the_order_of_bursts_is_seen_by_rotary_positions_alone(a_flow: Callable) -> None:
    batch = dict(NetFoundProcessor()(a_flow(4)))
    turned = {**batch, **{k: batch[k].flip(1) for k in ("input_ids", "attention_mask", "metadata")}}
    for fields, seen in (({}, True), ({"positions": "learned", "generation": 1}, False), ({"flat": True}, False)):
        model = a_model(**fields, **SHARP)
        one, other = (torch.stack(model.embed(b)) for b in (batch, turned))
        assert (float((one - other).abs().max()) > 1e-3) == seen


def test_only_the_step_between_bursts_carries_something_from_one_to_another(a_flow: Callable) -> None:
    batch = dict(NetFoundProcessor()(a_flow(3)))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 2, 5] = 7
    for flat in (False, True):
        model = a_model(flat=flat)
        one, other = (model(**b).last_hidden_state.unflatten(1, (3, -1)) for b in (batch, changed))
        assert torch.equal(one[0, 0], other[0, 0]) == flat


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    query, key = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    table = sinusoids(20, 16)

    def score(one: int, other: int) -> float:
        return float((rotate(query, table[[one]]) * rotate(key, table[[other]])).sum())

    assert score(3, 7) == pytest.approx(score(11, 15), abs=1e-4)
    assert score(3, 7) != pytest.approx(score(3, 9), abs=1e-3)


def test_tables_of_several_scales_make_neighbouring_values_alike() -> None:
    model = a_model(vocab_size=FieldVocabulary.size, word_scales=[16, LEVELS], no_meta=True)
    words = [model.embedding.words, *model.embedding.scales]
    ids = torch.tensor([1 + 32, 1 + 33, 1 + 200, 1 + LEVELS + 32])
    rows = torch.stack([ids, 1 + (ids - 1) // 16, 1 + (ids - 1) // LEVELS])
    vectors = sum(table(row) for table, row in zip(words, rows, strict=True))
    similar = torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:])
    assert similar[0] > similar[1] > similar[2] - 0.3 and similar[0] > 0.4

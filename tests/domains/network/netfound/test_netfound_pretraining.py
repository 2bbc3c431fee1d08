from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from domains.network.netfound.collation import NetFoundCollator
from domains.network.netfound.configuration import NetFoundConfig
from domains.network.netfound.corruption import hide_metadata, mask_tokens, swap_burst
from domains.network.netfound.pretraining import NetFoundForPreTraining, metadata_targets
from domains.network.netfound.processing import NetFoundProcessor
from domains.network.netfound.vocabulary import LEVELS, FieldVocabulary
from hub.errors import InvalidRecipe
from hub.training.collation import Randomness, seeded_generator

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
FIELDS = {"vocab_size": FieldVocabulary.size, "metadata_scale": "log", "softmax_levels": LEVELS}


def test_a_published_swap_leaves_length_and_metadata_behind(prepared: Callable) -> None:
    flow, other = prepared((3, 6, 1), (2, 17, 3))
    swapped, place = swap_burst(flow, [other], 1.0, whole=False, generator=seeded_generator(0))
    assert place is not None and torch.equal(swapped.metadata, flow.metadata)
    assert [len(b) for b in swapped.bursts] == [len(b) for b in flow.bursts]
    length = len(flow.bursts[place])
    assert any(torch.equal(swapped.bursts[place], source[:length]) for source in other.bursts)


def test_a_whole_swap_is_of_the_same_protocol_and_takes_the_metadata_along(prepared: Callable) -> None:
    flow, tcp, udp = prepared((3, 6), (4, 6), (5, 17))
    for seed in range(8):
        swapped, place = swap_burst(flow, [udp, tcp], 1.0, whole=True, generator=seeded_generator(seed))
        assert place is not None
        source = next(i for i, b in enumerate(tcp.bursts) if torch.equal(b, swapped.bursts[place]))
        assert torch.equal(swapped.metadata[place], tcp.metadata[source])
    single = prepared((1, 6))[0]
    assert swap_burst(single, [tcp], 1.0, whole=True, generator=seeded_generator(0)) == (single, None)
    assert swap_burst(flow, [udp], 1.0, whole=True, generator=seeded_generator(0)) == (flow, None)


def test_metadata_are_hidden_in_long_flows_and_not_of_a_swapped_burst(prepared: Callable) -> None:
    long, short = prepared((12, 6), (3, 6))
    changed, hidden = hide_metadata(long, 1.0, 4, 5, seeded_generator(0))
    assert hidden.tolist() == [number != 5 for number in range(12)]
    assert not changed.metadata[hidden].any() and torch.equal(changed.metadata[5], long.metadata[5])
    assert not hide_metadata(short, 1.0, 4, None, seeded_generator(0))[1].any()


def test_masked_tokens_are_values_and_stay_values_or_become_the_mask(prepared: Callable) -> None:
    flow = prepared((12, 6, 6))[0]
    first, end = FieldVocabulary.values
    mask_id = FieldVocabulary.mask_id
    changed, labels = mask_tokens(flow, 0.3, 2, (first, end), mask_id, seeded_generator(0))
    before, after, wanted = (torch.cat(part) for part in (flow.bursts, changed.bursts, labels))
    chosen = wanted != -100
    assert torch.equal(wanted[chosen], before[chosen]) and torch.equal(after[~chosen], before[~chosen])
    assert (labels[2] == -100).all() and all(burst[0] == FieldVocabulary.cls_id for burst in changed.bursts)
    share = chosen.sum() / (sum(len(b) - 1 for n, b in enumerate(flow.bursts) if n != 2))
    assert 0.25 < share < 0.35 and 0.7 < (after[chosen] == mask_id).float().mean() < 0.9
    drawn = after[chosen & (after != mask_id)]
    assert (drawn >= first).all() and (drawn < end).all()


def test_a_batch_holds_what_was_taken_away(prepared: Callable) -> None:
    collator = NetFoundCollator(NetFoundProcessor(vocabulary="fields"), NetFoundConfig(**SIZES, **FIELDS))
    flows = prepared((12, 6, 6), (5, 6), (2, 17), (1, 1))
    batch = collator.collate(flows, Randomness.seeded(4))
    hidden = batch["hidden"]
    assert hidden.any() and not batch["metadata"][hidden].any() and (batch["targets"][hidden][:, 0].abs() == 1).all()
    assert not hidden[2:].any() and ((batch["labels"] == -100) | batch["attention_mask"]).all()
    twice = NetFoundCollator(collator.processor, NetFoundConfig(**SIZES, **FIELDS, view_loss_weight=1.0))
    views = twice.collate(flows, Randomness.seeded(4))
    assert len(views["input_ids"]) == 8 and not torch.equal(views["labels"][:4], views["labels"][4:])


def test_targets_are_those_of_the_paper_or_logarithms() -> None:
    metadata = torch.tensor([-1.0, 1500.0, 3.0, 2000.0])
    assert metadata_targets(metadata, "raw").tolist() == pytest.approx([2.0, 1.5, 3.0])
    assert metadata_targets(metadata, "log").tolist() == pytest.approx([7.6014, 7.3139, 1.3863], abs=1e-4)


@pytest.mark.parametrize("fields", [{}, FIELDS, {"generation": 1, "positions": "learned"}, {**FIELDS, "no_meta": True}])
def test_losses_start_at_chance(fields: dict, a_flow: Callable) -> None:
    torch.manual_seed(0)
    config = NetFoundConfig(**SIZES, **fields, metadata_hidden_size=16)
    processor = NetFoundProcessor(vocabulary="fields" if fields.get("softmax_levels") else "values")
    collator = NetFoundCollator(processor, config, metadata_from_bursts=2)
    batch = collator.collate(
        [processor.prepare(a_flow(n, p, seed=n)) for n, p in ((12, 6), (6, 17), (3, 1))], Randomness.seeded(3)
    )
    output = NetFoundForPreTraining(config).eval()(**batch)
    levels = config.softmax_levels or config.vocab_size
    assert float(output.metrics["mlm_loss"]) == pytest.approx(float(torch.tensor(levels).log()), rel=0.05)
    assert float(output.metrics["swap_loss"]) == pytest.approx(0.693, abs=0.15)


def test_a_batch_without_anything_hidden_has_a_loss_of_zero_there(prepared: Callable) -> None:
    config = NetFoundConfig(**SIZES, **FIELDS, mlm_probability=0.0)
    processor = NetFoundProcessor(vocabulary="fields")
    batch = NetFoundCollator(processor, config).collate(prepared((1, 6), (1, 17)), Randomness.seeded(2))
    metrics = NetFoundForPreTraining(config)(**batch).metrics
    assert [float(metrics[f"{n}_loss"]) for n in ("mlm", "metadata", "direction")] == [0.0, 0.0, 0.0]


def test_a_model_too_small_for_its_tokens_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match="65539 rows"):
        NetFoundCollator(NetFoundProcessor(), NetFoundConfig(**SIZES, vocab_size=8067))
    with pytest.raises(InvalidRecipe, match="max_burst_length"):
        NetFoundCollator(NetFoundProcessor(strip_payload=False, max_burst_length=109), NetFoundConfig(**SIZES))

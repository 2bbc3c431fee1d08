from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.speech.tera.alteration import Altered, GeneratorDraws, alter
from domains.speech.tera.configuration import TeraConfig
from hub.training.collation import Randomness

COLUMNS = 20


def policy(**changes) -> TeraConfig:
    off = {"mask_proportion": 0, "mask_frequency": 0, "noise_proportion": 0}
    return TeraConfig(**{**off, **changes})


def clean_frames(lengths: list[int]) -> torch.Tensor:
    """Frames that are nowhere zero, padded with zeros."""
    rows = [1 + torch.rand(n, COLUMNS, generator=torch.Generator().manual_seed(n)) for n in lengths]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def run(lengths: list[int], settings: TeraConfig, seed: int) -> tuple[torch.Tensor, Altered]:
    clean = clean_frames(lengths)
    untouched = clean.clone()
    randomness = Randomness.seeded(len(lengths), seed)
    draws = [GeneratorDraws(generator) for generator in randomness.samples]
    altered = alter(clean, lengths, settings, draws, GeneratorDraws(randomness.shared))
    assert torch.equal(clean, untouched)
    assert altered.label_mask.shape == clean.shape
    assert altered.label_mask.dtype == torch.bool
    return clean, altered


def runs_of(flags: torch.Tensor) -> list[int]:
    return [len(list(group)) for value, group in itertools.groupby(flags.tolist()) if value]


batches = st.lists(st.integers(2, 120), min_size=1, max_size=4)
policies = st.builds(
    lambda p, low, more, overlap, ratio, q: policy(
        mask_proportion=p,
        mask_consecutive_min=low,
        mask_consecutive_max=low + more,
        mask_allow_overlap=overlap,
        mask_bucket_ratio=ratio,
        mask_frequency=q,
    ),
    st.floats(0, 1),
    st.integers(1, 10),
    st.integers(0, 5),
    st.booleans(),
    st.floats(1, 3),
    st.floats(0, 0.9),
)


@settings(max_examples=150, deadline=None)
@given(lengths=batches, policy=policies, seed=st.integers(0, 10_000))
def test_only_real_cells_are_scored_and_only_scored_cells_are_altered(lengths, policy, seed):
    clean, (frames, label_mask) = run(lengths, policy, seed)
    for row, length in enumerate(lengths):
        assert not label_mask[row, length:].any()
        changed = frames[row, :length] != clean[row, :length]
        assert not (changed & ~label_mask[row, :length]).any()
        assert (frames[row, length:] == 0).all()
    if policy.mask_proportion == 0 and policy.mask_frequency == 0:
        assert all(label_mask[row, :n].all() for row, n in enumerate(lengths))
    _, again = run(lengths, policy, seed)
    assert torch.equal(again.frames, frames)
    assert torch.equal(again.label_mask, label_mask)


@settings(max_examples=100, deadline=None)
@given(
    length=st.integers(20, 300),
    width=st.integers(2, 9),
    overlap=st.booleans(),
    proportion=st.floats(0.05, 0.6),
    seed=st.integers(0, 10_000),
)
def test_blocks_have_the_drawn_width_and_the_aimed_number(length, width, overlap, proportion, seed):
    settings = policy(
        mask_proportion=proportion,
        mask_consecutive_min=width,
        mask_consecutive_max=width,
        mask_allow_overlap=overlap,
    )
    _, (_, label_mask) = run([length], settings, seed)
    chosen = label_mask[0].any(1)
    assert torch.equal(label_mask[0].all(1), chosen)
    count = round(length * proportion / width)
    assert chosen.sum() <= count * width
    if overlap:
        assert all(found >= width for found in runs_of(chosen))
        assert chosen.any() == (count > 0)
    else:
        # The stride of 1.5 widths keeps blocks apart, and the grid may not hold them all.
        assert set(runs_of(chosen)) <= {width}
    assert not chosen[length - 1]  # the published code never reaches the last frame


def test_widths_are_drawn_from_their_range():
    settings = policy(mask_proportion=0.06, mask_consecutive_min=3, mask_consecutive_max=6, mask_allow_overlap=False)
    widths = {w for seed in range(80) for w in runs_of(run([60], settings, seed)[1].label_mask[0].any(1))}
    assert widths == {3, 4, 5, 6}


@settings(max_examples=100, deadline=None)
@given(length=st.integers(2, 60), share=st.floats(0.05, 0.95), seed=st.integers(0, 10_000))
def test_one_band_of_neighbouring_columns_is_blanked_on_every_frame(length, share, seed):
    clean, (frames, label_mask) = run([length, 80], policy(mask_frequency=share), seed)
    for row, n in enumerate((length, 80)):
        columns = label_mask[row, 0]
        assert torch.equal(label_mask[row, :n], columns.expand(n, -1))
        assert len(runs_of(columns)) <= 1
        assert columns.sum() <= int(COLUMNS * share)
        assert (frames[row, :, columns] == 0).all()
        assert torch.equal(frames[row, :n, ~columns], clean[row, :n, ~columns])


def test_an_utterance_is_zeroed_replaced_or_kept_as_often_as_published():
    settings = policy(mask_proportion=0.3)
    kinds = {"zero": 0, "replace": 0, "keep": 0}
    for seed in range(1_500):
        clean, (frames, label_mask) = run([40], settings, seed)
        chosen = label_mask[0].any(1)
        if (frames[0, chosen] == 0).all():
            kinds["zero"] += 1
        elif torch.equal(frames, clean):
            kinds["keep"] += 1
        else:
            kinds["replace"] += 1
            rows = {tuple(r.tolist()) for r in clean[0]}
            assert all(tuple(r.tolist()) in rows for r in frames[0])
    assert kinds["zero"] / 1_500 == pytest.approx(0.8, abs=0.04)
    assert kinds["keep"] / 1_500 == pytest.approx(0.1, abs=0.03)


def test_the_average_share_of_frames_is_just_below_the_aim():
    settings = policy(mask_proportion=0.15)
    shares = [run([400], settings, seed)[1].label_mask.float().mean().item() for seed in range(200)]
    assert 0.13 < sum(shares) / len(shares) < 0.15  # overlapping blocks count once


def test_noise_falls_on_a_whole_batch_and_marks_nothing():
    settings = policy(mask_frequency=0.3, noise_proportion=0.5, noise_std=0.2)
    noisy = 0
    for seed in range(200):
        _, altered = run([50, 90], settings, seed)
        quiet = run([50, 90], policy(mask_frequency=0.3), seed)[1]
        assert torch.equal(altered.label_mask, quiet.label_mask)
        difference = altered.frames - quiet.frames
        if difference.any():
            noisy += 1
            assert difference[1].std().item() == pytest.approx(0.2, rel=0.1)
            assert difference[0, :50].any()
            assert not difference[0, 50:].any()  # padding stays padding
    assert noisy / 200 == pytest.approx(0.5, abs=0.12)


def test_noise_alone_is_scored_on_all_real_cells():
    _, (frames, label_mask) = run([30, 50], policy(noise_proportion=1), seed=3)
    assert label_mask[0, :30].all()
    assert not label_mask[0, 30:].any()
    assert frames.std() > 0.2


def test_different_seeds_give_different_masks():
    settings = policy(mask_proportion=0.15, mask_frequency=0.2)
    masks = [run([200], settings, seed)[1].label_mask for seed in range(10)]
    assert sum(torch.equal(a, b) for a, b in itertools.combinations(masks, 2)) == 0

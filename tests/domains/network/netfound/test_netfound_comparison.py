from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from domains.network.comparison import Labelled, anomaly_areas, linear, nearest_kinds, scores, with_noise, without


@pytest.fixture
def attacks_apart() -> tuple[np.ndarray, np.ndarray, Labelled]:
    """Attacks of two captures each of two kinds, far from usual flows; the captures of one kind lie apart too."""
    draw = np.random.default_rng(0)
    usual = draw.normal(0, 1, (40, 4))
    places = {"a1": (9, 0), "a2": (9, 1), "b1": (0, 9), "b2": (-9, -9)}
    features = np.concatenate([draw.normal((*at, 0, 0), 0.1, (5, 4)) for at in places.values()])
    files = np.repeat(list(places), 5)
    return features, usual, Labelled([], np.array([file[0] for file in files]), np.full(20, ""), files)


def test_neighbours_of_attacks_in_the_same_and_in_other_captures(attacks_apart: tuple) -> None:
    features, usual, attack = attacks_apart
    assert nearest_kinds(features, usual, attack, elsewhere=False) == {"": [1, 0], "a": [1, 1], "b": [1, 1]}
    found = nearest_kinds(features, usual, attack, elsewhere=True)
    assert found["a"] == [1, 1] and found["b"][0] == 0 and found[""] == [1, 0]
    held_out = np.arange(40) < 10
    assert anomaly_areas(features, usual, attack, held_out) == {"a": 1.0, "b": 1.0}
    assert 0.2 < anomaly_areas(usual[:20], usual, attack, held_out)["a"] < 0.8


def test_scores_are_of_the_fold_left_out() -> None:
    draw = np.random.default_rng(0)
    labels, folds = np.tile(["x", "y"], 30), np.repeat(["0", "1", "2"], 20)
    told = (labels == "x")[:, None] + draw.normal(0, 0.1, (60, 2))
    data = Labelled([], labels, folds, folds)
    assert scores(told, data, linear).tolist() == [[1, 1]] * 3
    # Within a fold these tell all, but nothing of another fold.
    private = np.where(folds == "0", 1, np.where(folds == "1", -1, 0))[:, None] * (labels == "x")[:, None]
    assert scores(private, data, linear)[:, 0].mean() < 0.8
    assert (with_noise(labels, 0.4, 0) != labels).mean() == pytest.approx(0.4, abs=0.15)
    assert (with_noise(labels, 1.0, 0) != labels).all()


def test_a_shortcut_taken_away_is_the_same_in_all_flows(a_flow: Callable) -> None:
    for sample in (a_flow(3), a_flow(2, 17)):
        changed = without(sample, ("ttl", "window", "time")).data
        packets = np.concatenate(changed.burst_tokens).reshape(-1, changed.packet_tokens)
        before = np.concatenate(sample.data.burst_tokens).reshape(-1, changed.packet_tokens)
        touched = [4, 6] if changed.protocol == 6 else [4]
        assert (
            (packets[:, touched] == [64, 4096][: len(touched)]).all()
            and changed.duration == 0
            and not changed.iats.any()
        )
        assert (np.delete(packets, touched, 1) == np.delete(before, touched, 1)).all()

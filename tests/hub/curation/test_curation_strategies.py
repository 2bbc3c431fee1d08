from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn.neighbors import KNeighborsClassifier

from hub.curation import Curator, balanced_counts, kmeans, similar_in_rounds, water_fill
from hub.curation.balanced import water_level, within_clusters
from hub.curation.clustering import Clusters, directions
from hub.errors import InvalidInput, InvalidRecipe

BY = ("prototype", "duplicates", "balanced", "target")
FEW = settings(max_examples=25, deadline=None)


@st.composite
def matrices(draw) -> np.ndarray:
    """Rows of small whole numbers: with zeros, equal rows and equal directions."""
    rows, width = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    values = draw(st.lists(st.integers(-3, 3), min_size=rows * width, max_size=rows * width))
    return np.array(values, np.float32).reshape(rows, width)


def pool(seed: int, rows: int = 60, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def explained(by: str, vectors: np.ndarray, seed: int = 0, **options):
    return Curator({"by": by, **options}).explain(
        vectors, seed, pool(1, 9, vectors.shape[1]) if by == "target" else None
    )


@FEW
@given(matrices(), st.sampled_from(BY), st.floats(0.01, 1), st.integers(0, 3))
def test_what_is_kept_is_a_set_of_rows_of_the_size_asked_for(vectors, by, keep, seed) -> None:
    options = {} if by == "duplicates" else {"keep": keep}
    found = explained(by, vectors, seed, **options)
    assert np.array_equal(found.kept, np.unique(found.kept))
    assert np.array_equal(np.sort(np.r_[found.kept, found.dropped]), np.arange(len(vectors)))
    assert len(found.scores) == len(found.clusters) == len(vectors)
    assert np.isfinite(found.scores).all()
    if by in ("prototype", "balanced"):
        assert len(found.kept) == max(1, round(keep * len(vectors)))
    if by == "target":
        assert 1 <= len(found.kept) <= max(1, round(keep * len(vectors)))
    assert np.array_equal(found.kept, explained(by, vectors, seed, **options).kept)


@FEW
@given(
    st.integers(0, 10_000),
    st.sampled_from(
        [
            {"by": "prototype", "keep": 0.5, "prefer": "easy"},
            {"by": "prototype", "keep": 0.2},
            {"by": "balanced", "diversity": 0, "rounds": 3},
            {"by": "balanced"},
            {"by": "balanced", "diversity": 1, "levels": [9]},
            {"by": "target", "clusters": 4},
        ]
    ),
)
def test_the_order_of_the_rows_does_not_matter(seed, options) -> None:
    vectors, target = pool(seed), pool(seed + 1, 9) if options["by"] == "target" else None
    order = np.random.default_rng(seed).permutation(len(vectors))
    curator = Curator(options)
    assert np.array_equal(np.sort(order[curator.select(vectors[order], 0, target)]), curator.select(vectors, 0, target))


@FEW
@given(matrices(), st.integers(1, 3), st.sampled_from([0.5, 0.9, 1.0]))
def test_of_equal_rows_the_first_is_kept(vectors, clusters, threshold) -> None:
    distinct, first = np.unique(vectors, axis=0, return_index=True)
    clusters = min(clusters, len(distinct))
    found = explained("duplicates", vectors, clusters=clusters, threshold=threshold)
    assert set(found.kept) <= set(first)
    unit, kept = directions(vectors).astype(np.float64), set(found.kept.tolist())
    for row, keeper in enumerate(found.stands_for):
        assert keeper in kept and keeper <= row and (keeper == row) == (row in kept)
        equal = np.array_equal(vectors[row], vectors[keeper])
        assert equal or unit[row] @ unit[keeper] >= threshold - 1e-6
        assert found.scores[row] == pytest.approx(1 if equal else unit[row] @ unit[keeper], abs=1e-5)
    if clusters == 1:
        similar = unit[found.kept] @ unit[found.kept].T - 2 * np.eye(len(found.kept))
        assert similar.max(initial=-1) < threshold + 1e-6
    groups = found.groups()
    assert sum(len(group) - 1 for group in groups) == len(found.dropped)
    assert all(group[0] in kept and not kept & set(group[1:].tolist()) for group in groups)


def test_a_chain_of_neighbours_is_not_one_group() -> None:
    """Each is near the next, the ends are far apart: what is dropped is near something kept, not only near a link."""
    angles = np.deg2rad(np.arange(0, 90, 5))
    found = explained("duplicates", np.c_[np.cos(angles), np.sin(angles)], threshold=float(np.cos(np.deg2rad(7))))
    assert found.kept.tolist() == list(range(0, 18, 2))
    assert found.stands_for.tolist() == [n - n % 2 for n in range(18)]


def test_duplicates_across_blocks_of_one_cluster_are_found() -> None:
    vectors = pool(0, 1500, 16)
    found = explained("duplicates", np.r_[vectors, 2 * vectors[::3], vectors], threshold=0.9999)
    assert np.array_equal(found.kept, np.arange(1500))
    assert [len(group) for group in found.groups()] == [3] * 500 + [2] * 1000


def test_hard_samples_are_far_from_their_prototype_and_easy_ones_near() -> None:
    vectors = pool(3, 200)
    hard, easy = (explained("prototype", vectors, keep=0.3, prefer=p) for p in ("hard", "easy"))
    assert hard.scores[hard.kept].min() >= hard.scores[hard.dropped].max()
    assert easy.scores[easy.kept].max() <= easy.scores[easy.dropped].min()
    assert not set(hard.kept) & set(easy.kept)


@FEW
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.data())
def test_water_fill_is_even_as_far_as_sizes_allow(sizes, data) -> None:
    sizes = np.array(sizes)
    target = data.draw(st.integers(0, int(sizes.sum())))
    counts = water_fill(sizes, target, np.random.default_rng(0))
    level = water_level(sizes, target)
    assert counts.sum() == target
    assert ((counts == np.minimum(sizes, level)) | ((counts == level + 1) & (sizes > level))).all()
    assert np.minimum(sizes, level).sum() <= target
    assert level == sizes.max() or np.minimum(sizes, level + 1).sum() > target


def test_diversity_is_the_odds_of_the_farther_of_two() -> None:
    """Of 4000 clusters of two, one sample each: the farther is drawn with probability d."""
    labels = np.repeat(np.arange(4000), 2)
    clusters = Clusters(np.zeros((4000, 1), np.float32), labels, np.tile([0.1, 0.2], 4000).astype(np.float32))
    for diversity in (0.0, 0.2, 0.5, 0.9, 1.0):
        kept = within_clusters(clusters, np.ones(4000, int), diversity, np.random.default_rng(0))
        assert np.array_equal(labels[kept], np.arange(4000))
        # Four standard errors of a share of 4000, at most 0.032; none at the ends.
        assert np.mean(kept % 2) == pytest.approx(diversity, abs=4 * (diversity * (1 - diversity) / 4000) ** 0.5)


def imbalanced(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ten Gaussian classes of 1000 down to 10 samples, and a test set with 100 of each."""
    random = np.random.default_rng(seed)
    centres = 2 * random.normal(size=(10, 16))
    sizes = np.geomspace(1000, 10, 10).round().astype(int), np.full(10, 100)
    labels = [np.repeat(np.arange(10), counts) for counts in sizes]
    return [(centres[y] + random.normal(size=(len(y), 16)), y) for y in labels]


def entropy(labels: np.ndarray) -> float:
    share = np.bincount(labels, minlength=10) / len(labels)
    return -sum(p * np.log(p) for p in share if p)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balancing_evens_out_classes_that_nobody_named(seed) -> None:
    (x, y), (test_x, test_y) = imbalanced(seed)

    def accuracy(rows: np.ndarray) -> float:
        return KNeighborsClassifier(5).fit(directions(x[rows]), y[rows]).score(directions(test_x), test_y)

    kept = Curator({"by": "balanced", "keep": 0.3}).select(x, seed)
    random = np.random.default_rng(seed).permutation(len(x))[: len(kept)]
    assert entropy(y[kept]) > entropy(y) + 0.2 > entropy(y[random]) + 0.1
    assert accuracy(kept) >= accuracy(np.arange(len(x))) - 0.01
    assert accuracy(kept) >= accuracy(random)
    alone = Curator({"by": "balanced", "keep": 0.3, "levels": [1]}).select(x, seed)
    assert entropy(y[kept]) > entropy(y[alone]) + 0.2


def test_resampling_gives_dense_regions_fewer_centroids() -> None:
    """A blob of 2000 and a thin ring of 200: k-means alone spends its centroids on the blob."""
    random = np.random.default_rng(0)
    angles = random.uniform(0, 2 * np.pi, 200)
    ring = np.c_[np.cos(angles), np.sin(angles), np.full(200, 0.2)]
    unit = directions(np.r_[[0, 0, 1] + 0.25 * random.normal(size=(2000, 3)), ring])
    on_ring = [np.mean(kmeans(unit, 20, 0, rounds).centroids[:, 2] < 0.5) for rounds in (0, 10)]
    assert on_ring[1] > on_ring[0] + 0.15


def test_target_similarity_takes_what_resembles_the_target_and_stops() -> None:
    random = np.random.default_rng(0)
    near, far = random.normal(size=(300, 8)) + 6 * np.eye(8)[0], random.normal(size=(700, 8)) - 6 * np.eye(8)[0]
    target = random.normal(size=(50, 8)) + 6 * np.eye(8)[0]
    found = Curator({"by": "target", "keep": 0.25, "clusters": 10}).explain(np.r_[near, far], 0, target)
    assert len(found.kept) == 250 and found.kept.max() < 300
    # 300 look alike; with no other limit the rule stops before the first that does not.
    found = Curator({"by": "target", "keep": 1.0, "clusters": 10, "patience": 2}).explain(np.r_[near, far], 0, target)
    assert 100 < len(found.kept) <= 300 and found.kept.max() < 300
    assert len(Curator({"by": "target", "keep": 1.0, "stop": 0}).select(np.r_[near, far], 0, target)) == 1000


def test_rounds_of_target_similarity_by_hand() -> None:
    similarities = np.array([[0.9, 0.8], [0.7, 0.1], [0.2, 0.6], [0.1, 0.3], [0.0, 0.2]], np.float32)
    # Round 1: both want row 0. Round 2: rows 1 and 2 (0.65 on average). Round 3: rows 3 (0.1 and 0.3): row 3 alone.
    assert similar_in_rounds(similarities, 1).tolist() == [0]
    assert similar_in_rounds(similarities, 2).tolist() == [0, 1]
    assert similar_in_rounds(similarities, 3).tolist() == [0, 1, 2]
    assert similar_in_rounds(similarities, 9).tolist() == [0, 1, 2, 3, 4]
    assert similar_in_rounds(similarities, 9, stop=0.7, patience=1).tolist() == [0, 1, 2]
    assert similar_in_rounds(similarities, 9, stop=0.8, patience=1).tolist() == [0]
    assert similar_in_rounds(similarities, 9, stop=0.9, patience=2).tolist() == [0, 1, 2]


def test_recorded_selections_of_the_published_samplers(shared_data) -> None:
    file = shared_data.parent / "golden" / "nereus" / "io.safetensors"
    if not file.is_file():
        pytest.skip("no recorded selections beside this checkout")
    io = load_file(file)
    assert np.array_equal(similar_in_rounds(io["simcore.sim"], 20), io["simcore.select20"])
    sizes, parents = io["cur.level1_sizes"], io["cur.level2_of_level1"]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    # The recorded points of a cluster are in the order of their distance to the centroid.
    clusters = Clusters(np.zeros((len(sizes), 1), np.float32), labels, np.arange(len(labels), dtype=np.float32))
    targets = sorted(int(name.split(".")[1].removeprefix("target_")) for name in io if name.endswith("top_cut"))
    assert targets
    for target in targets:
        expected = io[f"cur.target_{target}.per_level1"]
        top = np.bincount(parents, weights=sizes).astype(int)
        assert water_level(top, target) == io[f"cur.target_{target}.top_cut"].item()
        counts = balanced_counts(sizes, [parents], target, np.random.default_rng(0))
        assert counts.sum() == target == len(io[f"cur.target_{target}.selected"])
        assert np.abs(counts - expected).max() <= 1
        # With the recorded counts, whose remainders were drawn, the rows are the recorded ones.
        kept = within_clusters(clusters, expected, 0.0, np.random.default_rng(0))
        assert np.array_equal(kept, io[f"cur.target_{target}.selected"])


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "by is None"),
        ({"by": "magic"}, "'magic'; it is one of prototype, duplicates, balanced, target"),
        ({"by": ["prototype"]}, "it is one of"),
        ({"by": "balanced", "threshold": 0.9}, "no option 'threshold'; it has keep, levels, diversity, rounds"),
        ({"by": "duplicates", "keep": 0.5}, "no option 'keep'"),
        ({"by": "prototype", "keep": 0}, "keep is 0.0"),
        ({"by": "prototype", "keep": 80}, "keep is 80.0; it is a share"),
        ({"by": "prototype", "keep": float("nan")}, "keep is nan"),
        ({"by": "prototype", "keep": "0.8"}, "must be a number"),
        ({"by": "prototype", "prefer": "far"}, "none of hard, easy"),
        ({"by": "prototype", "clusters": -1}, "at least 0"),
        ({"by": "prototype", "clusters": 2.5}, "a whole number"),
        ({"by": "balanced", "levels": [10, 100]}, "the finest comes first"),
        ({"by": "balanced", "levels": [10, 0]}, "levels is 0"),
        ({"by": "balanced", "levels": 10}, "a list of whole numbers"),
        ({"by": "balanced", "diversity": 2}, "from 0 to 1"),
        ({"by": "target", "patience": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options, words) -> None:
    with pytest.raises(InvalidRecipe) as error:
        Curator(options)
    assert words in str(error.value)


def test_what_the_vectors_cannot_do_is_refused() -> None:
    vectors = pool(0, 8)
    for options in (
        {"by": "prototype", "clusters": 9},
        {"by": "duplicates", "clusters": 9},
        {"by": "balanced", "levels": [9]},
    ):
        with pytest.raises(InvalidRecipe, match="asks for 9 clusters, and there are 8 samples"):
            Curator(options).select(vectors, 0)
    with pytest.raises(InvalidRecipe, match="needs the embeddings of a target set"):
        Curator({"by": "target"}).select(vectors, 0)
    with pytest.raises(InvalidRecipe, match="by target alone"):
        Curator({"by": "prototype"}).select(vectors, 0, vectors)
    with pytest.raises(InvalidInput, match="6 dimensions and the target set's 5"):
        Curator({"by": "target"}).select(vectors, 0, pool(0, 8, 5))
    vectors[3, 1] = np.nan
    for bad in (vectors, vectors[:0], vectors[0]):
        with pytest.raises(InvalidInput, match=r"1 of 8 samples .* row 3|not the shape"):
            Curator({"by": "balanced"}).select(bad, 0)

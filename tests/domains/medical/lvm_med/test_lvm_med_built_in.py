"""The built-in LVM-Med: it loads by name, and does what its card says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hub
from domains.medical.samples import write_samples


def test_it_embeds_what_the_domain_reads(tmp_path: Path) -> None:
    embedder = hub.from_pretrained("lvm-med-tiny")
    files = write_samples(tmp_path)
    vectors = embedder.embed(files).vectors
    assert vectors.shape == (len(files), 2048) and np.isfinite(vectors).all()
    for file, vector in zip(files, vectors, strict=True):
        slices = embedder.run("slices", [file])[0]
        np.testing.assert_allclose(np.mean([s["embedding"] for s in slices], axis=0), vector, atol=1e-5)


@pytest.mark.slow
def test_it_does_on_brain_images_what_its_card_says(shared_data: Path) -> None:
    folder = shared_data / "medical" / "brain_tumor_mri_jpg"
    if not folder.is_dir():
        pytest.skip("no brain images beside this checkout")
    with (folder / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    vectors = hub.from_pretrained("lvm-med-tiny").embed([folder / row["file"] for row in rows]).vectors
    labels = np.array([row["label"] for row in rows])
    train = np.array([row["split"] == "train" for row in rows])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    probe.fit(vectors[train], labels[train])
    # Of 64 images; one more or less is 0.016.
    assert float(probe.score(vectors[~train], labels[~train])) == pytest.approx(0.703, abs=0.02)

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from domains.medical.duplicates import NOTHING, Pair, fingerprint, groups_of, keep_duplicates_together, near_duplicates
from domains.medical.finetune import main
from domains.medical.hashing import difference_hash, hamming
from domains.medical.image import MedicalImage
from domains.medical.reading import MedicalReader
from hub.errors import InvalidManifest
from hub.manifest import Row


def slice_of(seed: int) -> np.ndarray:
    """A picture of its own: blobs of several sizes."""
    random = np.random.default_rng(seed)
    layers = [gaussian_filter(random.normal(size=(96, 80)), width) * width for width in (4, 8, 16)]
    blobs = sum(layers)
    return ((blobs - blobs.min()) / np.ptp(blobs)).astype(np.float32)


def picture(values: np.ndarray) -> MedicalImage:
    return MedicalImage(values.astype(np.float32)[None, None])


def save(path: Path, values: np.ndarray, **options: int) -> Path:
    Image.fromarray(np.round(255 * values).astype(np.uint8)).save(path, **options)
    return path


def jpeg(values: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(np.round(255 * values).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), np.float32) / 255


@pytest.fixture
def pack(tmp_path: Path) -> list[Row]:
    """Six pictures; row 5 is row 1 compressed, row 6 is row 3 at half the size."""
    rows = [Row(save(tmp_path / f"{n}.png", slice_of(n)), str(n % 2)) for n in range(4)]
    small = np.asarray(Image.fromarray(slice_of(2)).resize((40, 48), Image.Resampling.BICUBIC)).clip(0, 1)
    rows.append(Row(save(tmp_path / "a.jpg", slice_of(0), quality=40), "0"))
    rows.append(Row(save(tmp_path / "b.png", small), "0"))
    return rows


def test_a_hash_says_where_the_picture_grows_brighter_to_the_right() -> None:
    ramp = np.tile(np.arange(90.0), (80, 1))
    assert int(difference_hash(ramp)) == (1 << 64) - 1
    assert int(difference_hash(-ramp)) == 0
    assert hamming(difference_hash(ramp), difference_hash(-ramp)) == 64
    # Half of the columns of each row rise.
    tent = 45 - np.abs(np.tile(np.arange(90.0), (80, 1)) - 44.5)
    assert int(difference_hash(tent)) == int("f0" * 8, 16)


def test_altered_copies_are_found_and_others_are_not() -> None:
    originals = [slice_of(seed) for seed in range(30)]
    prints = [fingerprint(picture(p)) for p in originals]
    assert near_duplicates(prints) == []
    noise = np.random.default_rng(0).normal(0, 0.02, originals[0].shape)
    altered = [
        *(jpeg(p, 30) for p in originals[:10]),
        *(0.7 * p + 0.2 for p in originals[10:20]),
        *(p + noise for p in originals[20:]),
    ]
    pairs = near_duplicates(prints + [fingerprint(picture(p)) for p in altered])
    assert {(p.first, p.second) for p in pairs} >= {(n, 30 + n) for n in range(30)}
    assert all(p.second - p.first == 30 for p in pairs)


def test_volumes_are_compared_with_volumes_along_all_their_axes() -> None:
    volumes = [np.stack([slice_of(seed)[n : n + 48, :40] for n in range(24)]) for seed in range(4)]
    images = [MedicalImage(v[None]) for v in volumes]
    half = MedicalImage(volumes[2][None, ::2, ::2, ::2])
    other_slices = MedicalImage(np.concatenate([volumes[1][:12], volumes[3][12:]])[None])
    found = near_duplicates([fingerprint(i) for i in [*images, half, other_slices, picture(volumes[0][12])]])
    assert [(p.first, p.second) for p in found] == [(2, 4)]


def test_flat_images_have_no_hash() -> None:
    flat = fingerprint(picture(np.full((64, 64), 0.5)))
    assert flat is NOTHING
    assert near_duplicates([flat, flat]) == []


def test_what_hangs_together_is_one_group() -> None:
    assert groups_of([Pair(0, 3, 1), Pair(3, 5, 2), Pair(1, 2, 0)], 7) == [[0, 3, 5], [1, 2]]


def test_a_split_that_parts_near_duplicates_is_refused_by_row_numbers(pack: list[Row]) -> None:
    parted = [replace(row, split="test" if n >= 4 else "train") for n, row in enumerate(pack)]
    with pytest.raises(InvalidManifest, match=r"rows 1 \(train\) and 5 \(test\), 3 \(train\) and 6 \(test\)"):
        keep_duplicates_together(parted, MedicalReader(), leaky=False)
    with pytest.warns(UserWarning, match="two sides"):
        assert keep_duplicates_together(parted, MedicalReader(), leaky=True) == parted
    safe = [replace(row, split="test" if n in (0, 4) else "train") for n, row in enumerate(pack)]
    assert keep_duplicates_together(safe, MedicalReader(), leaky=False) == safe


def test_without_a_split_near_duplicates_and_their_patients_become_one_group(pack: list[Row]) -> None:
    named = [replace(row, group={0: "anna", 1: "anna", 2: "ben"}.get(n, "")) for n, row in enumerate(pack)]
    groups = [row.group for row in keep_duplicates_together(named, MedicalReader(), leaky=False)]
    assert groups == ["anna", "anna", "ben", "", "anna", "ben"]


def test_a_row_that_cannot_be_read_is_left_to_those_who_report_it(pack: list[Row], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n rest")
    rows = [*pack[:2], Row(broken, "0")]
    assert keep_duplicates_together(rows, MedicalReader(), leaky=False) == rows


def test_the_script_lists_the_groups(pack: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "set.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["file", "label"], *([row.file.name, row.label] for row in pack)])
    with pytest.raises(SystemExit):
        main(["duplicates", str(tmp_path / "set.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["1 0.png, 5 a.jpg", "3 2.png, 6 b.png", "2 groups of near-duplicates among 6 rows"]


def test_the_deduplicated_brain_set_has_no_pair_and_its_copies_are_found(shared_data: Path) -> None:
    files = sorted((shared_data / "medical" / "brain_tumor_mri_jpg").glob("*/*.jpg"))
    grey = [Image.open(f).convert("L") for f in files]
    prints = [fingerprint(picture(np.asarray(g, np.float32) / 255)) for g in grey]
    assert len(prints) == 240
    assert near_duplicates(prints) == []
    copies = [fingerprint(picture(jpeg(np.asarray(g, np.float32) / 255, 10))) for g in grey[::6]]
    halves = [
        fingerprint(picture(np.asarray(g.resize((g.width // 2, g.height // 2), Image.Resampling.BICUBIC), np.float32)))
        for g in grey[::6]
    ]
    for altered, least in ((copies, 0.95), (halves, 1.0)):
        distances = [int(hamming(a.hashes[0], p.hashes[0])) for a, p in zip(altered, prints[::6], strict=True)]
        assert np.mean(np.array(distances) <= 4) >= least

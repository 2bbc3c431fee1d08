"""How unlike the training data an input is: the reference set, its file, and the figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hub
from hub.cli import build
from hub.domain import Domain, domains
from hub.errors import InvalidCheckpoint, InvalidManifest, UnsupportedOption
from hub.manifest import Row
from hub.neighbourhood import FILE, VIEWS, Neighbourhood, share_below, views_of
from hub.reading import Sample, Source
from hub.reference_set import make_reference_set

TIME = np.arange(16_000) / 16_000


def tone(hertz: float, seconds: float = 0.4) -> dict[str, Any]:
    length = int(16_000 * seconds)
    return {"samples": 0.3 * np.sin(2 * np.pi * hertz * TIME[:length]).astype(np.float32), "sampling_rate": 16_000}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty recordings of one kind."""
    import soundfile

    folder = tmp_path_factory.mktemp("tones")
    for number in range(40):
        soundfile.write(folder / f"{number}.wav", tone(300 + 0.2 * number)["samples"], 16_000)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a small model with a reference set made by the command."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(hub.from_pretrained("tera-tiny").folder, folder)
    (folder / FILE).unlink(missing_ok=True)
    with pytest.raises(UnsupportedOption, match="fmhub neighbourhood MODEL --data") as refusal:
        hub.from_pretrained(folder).neighbourhood(tone(220))
    assert refusal.value.code == "no_neighbourhood"
    arguments = ["neighbourhood", str(folder), "--data", str(tones), "--made-from", "forty tones, CC0"]
    result = CliRunner().invoke(build(arguments), arguments)
    assert result.exit_code == 0 and "28 reference vectors" in result.output, result.output
    return folder


def test_a_stranger_lies_farther_than_one_of_the_kind(checkpoint: Path) -> None:
    embedder = hub.from_pretrained(checkpoint)
    noise = np.random.default_rng(0).normal(0, 0.1, 6_400).astype(np.float32)
    known, stranger = embedder.neighbourhood([tone(304.1), {"samples": noise, "sampling_rate": 16_000}])
    assert stranger["distance"] > 3 * known["distance"]
    assert stranger["percentile"] == 0 and known["percentile"] > 5 and "stability" not in known
    alone, beside = (
        embedder.neighbourhood([tone(304.1)], stability=True),
        embedder.neighbourhood([tone(310), tone(304.1)], stability=True),
    )
    assert alone[0] == pytest.approx(beside[1], abs=1e-3), "equal content has equal views, whatever is asked beside it"
    assert alone[0]["distance"] == pytest.approx(known["distance"], abs=1e-3)
    assert (checkpoint / FILE).stat().st_size < 300_000


def test_a_file_of_other_weights_or_damaged_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(checkpoint, folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(InvalidCheckpoint, match="other weights"):
        hub.from_pretrained(folder).neighbourhood(tone(220))
    (folder / FILE).write_bytes(b"no tensors")
    with pytest.raises(InvalidCheckpoint, match="cannot be read"):
        hub.from_pretrained(folder).neighbourhood(tone(220))


def test_groups_stay_on_one_side_and_few_samples_are_refused(tones: Path) -> None:
    embedder = hub.from_pretrained("tera-tiny")
    files = sorted(tones.glob("*.wav"))
    with pytest.raises(InvalidManifest, match="at least 30"):
        make_reference_set(embedder, [Row(f) for f in files[:5]], "too few")
    # Ten groups of the same four recordings: were one on both sides, each would find itself.
    rows = [Row(f, group=str(n // 4)) for n, f in enumerate(files)]
    found = make_reference_set(embedder, rows, "tones")
    assert len(found.reference) == 28 and np.allclose(found.reference.std(axis=0), 1, atol=0.01)
    assert found.distance.min() > 0 and (np.diff(found.distance) >= 0).all()


def test_places_among_quantiles() -> None:
    quantiles = np.linspace(0.2, 0.4, 101).astype(np.float32)
    assert [round(share_below(quantiles, v), 3) for v in (0.1, 0.3, 0.4, 0.9)] == [0, 0.5, 1, 1]
    unit = np.eye(4, dtype=np.float32)
    near = Neighbourhood(np.zeros(4, np.float32), np.full(4, 2, np.float32), unit[:2], quantiles, quantiles)
    assert near.distance_of(2 * unit[1]) == 0 and near.distance_of(2 * unit[2]) == pytest.approx(0.5**0.5)
    assert near.stability_of(np.stack([unit[0], *[unit[0]] * 4, *[unit[1]] * 4])) == 1
    assert near.stability_of(np.stack([unit[0], *[unit[0]] * 3, *[unit[1]] * 5])) == 0
    assert near.judge([2 * unit[1]]) == {"distance": 0, "percentile": 100}
    assert near.judge([9 * unit[1]])["percentile"] == 0
    silent = near.judge([np.zeros(4, np.float32)] * (1 + VIEWS))
    assert all(np.isfinite(list(silent.values())))


@pytest.mark.parametrize("domain", [d for d in domains().values() if not d.missing], ids=lambda d: d.name)
def test_a_changed_sample_is_another_of_its_kind(domain: Domain, tmp_path: Path) -> None:
    """Each domain's change keeps the kind of data, leaves the sample alone, and repeats itself by its seed."""
    if "augment" not in domain.references:
        pytest.skip("declares no augment")
    augment, reader = domain.load("augment"), domain.load("reader")()
    for file in domain.load("samples")(tmp_path):
        sample: Sample = next(iter(reader.read(Source.from_path(file))))
        before = repr(_numbers(sample.data))
        changed = [augment(sample, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        first, same, other = (repr(_numbers(c.data)) for c in changed)
        assert repr(_numbers(sample.data)) == before and first == same
        assert first != before or first != other, f"{file.name} is not changed at all"
        assert type(changed[0].data) is type(sample.data) and changed[0].key == sample.key


def _numbers(data: Any) -> list[Any]:
    """The arrays in a sample's data, as text that tells differences."""
    if hasattr(data, "to_dict"):
        values = data.to_dict().values()
    elif hasattr(data, "pixels"):
        values = [data.values]
    else:
        values = vars(data).values()
    found: list[Any] = []
    for value in values:
        for array in value if isinstance(value, list) else [value]:
            if isinstance(array, np.ndarray | torch.Tensor):
                numbers = np.asarray(array)
                found.append((numbers.shape, complex(numbers.astype(complex).sum()), complex(numbers.flat[0])))
    return found


def test_the_command_line_writes_the_figures(checkpoint: Path, tones: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    for name in ("out.jsonl", "out.parquet", "out.npy"):
        output = tmp_path / name
        arguments = ["embed", str(checkpoint), str(tones / "3.wav"), str(tmp_path / "broken.wav")]
        arguments += ["-o", str(output), "--sanity", "neighbourhood"]
        assert CliRunner().invoke(build(arguments), arguments).exit_code == 1
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["flags"] == [] and row["facts"]["sampling_rate"] == 16_000 and row["neighbourhood"]["percentile"] > 5
    import pyarrow.parquet as pq

    (record,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert json.loads(record["neighbourhood"]) == row["neighbourhood"] and record["flags"] == ""
    assert "neighbourhood" in (tmp_path / "out.npy.items.csv").read_text().splitlines()[0]


def test_views_are_prepared_samples(tones: Path) -> None:
    embedder = hub.from_pretrained("tera-tiny")
    (prepared,) = embedder.prepared(tones / "0.wav")
    views = views_of(embedder.intake, prepared, 3)
    assert len(views) == 3 and all(v.source == prepared.source for v in views)
    assert len({v.features.numpy().tobytes() for v in [prepared, *views]}) == 4

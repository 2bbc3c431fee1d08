"""What every system of every installed domain promises. A new one is tested without being named here."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hub
from hub.domain import System, domains, systems
from hub.errors import InvalidInput
from hub.processing import Processor
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Reader, Sample, Source, has_suffix
from hub.training.collation import Randomness, seeded_generator
from hub.training.pretrain import build_task, pretrain
from hub.training.recipe import load_recipe

SYSTEMS = [s for s in systems().values() if not s.domain.missing]


@pytest.fixture(scope="module", params=SYSTEMS, ids=lambda s: s.name)
def system(request: pytest.FixtureRequest) -> System:
    return request.param


@pytest.fixture(scope="module")
def files(system: System, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The domain's sample files that the system takes: one for volumes refuses pictures."""
    processor = build_task(load_recipe(f"{system.name}/tiny"))[1]
    made = system.domain.load("samples")(tmp_path_factory.mktemp(system.domain.name))
    taken = [f for f in made if _is_taken(processor, f)]
    assert len(taken) >= 2
    return taken


def _is_taken(processor: Processor, file: Path) -> bool:
    try:
        for sample in processor.reader().read(Source.from_path(file)):
            processor.prepare(sample)
    except InvalidInput:
        return False
    return True


@pytest.fixture(scope="module")
def checkpoint(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the system's tiny recipe with random weights."""
    task, processor = build_task(load_recipe(f"{system.name}/tiny"))
    folder = tmp_path_factory.mktemp("contract") / f"{system.name}-random"
    save_checkpoint(folder, task, processor)
    write_card(folder, card_metadata(system, license="apache-2.0"), "# random\n\nRandom weights, for tests.")
    return folder


@pytest.fixture(scope="module")
def embedder(checkpoint: Path) -> hub.Embedder:
    return hub.from_pretrained(checkpoint)


def samples_of(embedder: hub.Embedder, files: list[Path]) -> list[Sample]:
    return [sample for file in files for sample in embedder.read(file)]


def test_every_declared_class_exists(system: System) -> None:
    for role in system.classes:
        assert callable(system.load(role)), role
    for role in system.domain.references:
        assert callable(system.domain.load(role)), role
    assert system.load("configuration").model_type == system.model_type
    assert {"configuration", "model", "processor", "pretraining", "collator"} <= set(system.classes)
    assert system.paper and system.domain.install and system.domain.suffixes


def test_every_recipe_builds(system: System) -> None:
    assert "tiny" in system.recipes
    for name in system.recipes:
        recipe = load_recipe(f"{system.name}/{name}")
        config = system.load("configuration")(**recipe.model)
        processor = system.load("processor")(**recipe.processor)
        system.load("collator")(processor, config, **recipe.pretext)


def test_sample_files_are_read_by_content(system: System, files: list[Path], embedder: hub.Embedder) -> None:
    assert all(has_suffix(f.name, system.domain.suffixes) for f in files)
    for file in files:
        by_path = list(embedder.read(file))
        by_bytes = list(embedder.read(Source.from_bytes(file.read_bytes(), "renamed.bin")))
        assert by_path and [s.key for s in by_path] == [s.key for s in by_bytes]
    vectors = embedder.embed(files).vectors
    assert np.isfinite(vectors).all() and len(np.unique(vectors.round(6), axis=0)) == len(vectors)


def test_a_saved_processor_keeps_every_setting(system: System, tmp_path: Path) -> None:
    processor = build_task(load_recipe(f"{system.name}/tiny"))[1]
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    # transformers leaves attributes of some names out, without a word.
    settings = set(inspect.signature(type(processor).__init__).parameters) - {"self", "kwargs"}
    assert settings <= saved.keys()


def test_padding_changes_nothing(embedder: hub.Embedder, files: list[Path]) -> None:
    prepared = [embedder.prepare(s, "x") for s in samples_of(embedder, files)]
    alone = [embedder.forward([p])[0] for p in prepared]
    together = embedder.forward(prepared)
    reversed_order = embedder.forward(prepared[::-1])[::-1]
    for one, two, three in zip(alone, together, reversed_order, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)
        np.testing.assert_allclose(three, one, atol=1e-5)
    tokens_alone = [embedder.forward([p], pooling="none")[0] for p in prepared]
    for one, two in zip(tokens_alone, embedder.forward(prepared, pooling="none"), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)


def test_every_pooling_has_the_dimension_it_says(embedder: hub.Embedder, files: list[Path]) -> None:
    prepared = [embedder.prepare(s, "x") for s in samples_of(embedder, files[:1])]
    for pooling in embedder.model.poolings:
        for layer in (0, -1, "average", "all"):
            width = embedder.model.embedding_dimension(pooling, layer)
            assert embedder.forward(prepared, pooling, layer)[0].shape == (width,), (pooling, layer)


def test_saving_and_loading_is_exact(
    system: System, checkpoint: Path, embedder: hub.Embedder, files: list[Path], tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    save_checkpoint(tmp_path, embedder.model, embedder.processor)
    np.testing.assert_array_equal(hub.from_pretrained(tmp_path).embed(files).vectors, embedder.embed(files).vectors)
    assert type(AutoConfig.from_pretrained(checkpoint)) is system.load("configuration")
    model = AutoModel.from_pretrained(checkpoint)
    processor = AutoFeatureExtractor.from_pretrained(checkpoint)
    assert type(model) is system.load("model") and type(processor) is system.load("processor")
    assert processor.to_dict() == embedder.processor.to_dict()
    sample = samples_of(embedder, files)[0]
    vector = model.embed(processor(sample))[0].numpy()
    np.testing.assert_allclose(vector, embedder.embed(sample).vectors[0], atol=1e-5)
    for loaded, original in zip(model.parameters(), embedder.model.parameters(), strict=True):
        assert torch.equal(loaded, original)


def test_a_gradient_reaches_every_parameter_of_the_encoder(system: System, files: list[Path]) -> None:
    recipe = load_recipe(f"{system.name}/tiny")
    task, processor = build_task(recipe)
    collator = system.load("collator")(processor, task.config, **recipe.pretext)
    reader = processor.reader()
    samples = [s for f in files for s in reader.read(Source.from_path(f))]
    views = [collator.view(collator.prepare(s), seeded_generator(i)) for i, s in enumerate(samples) if collator.cost(s)]
    batch = collator.collate(views, Randomness.seeded(len(views)))
    output = task.train()(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    encoder = getattr(task, task.base_model_prefix)
    # A whole batch may leave a bias without effect (of keys in attention), but never a weight.
    untouched = [n for n, p in encoder.named_parameters() if p.grad is None]
    assert not untouched


def test_the_loss_falls_on_the_sample_files(system: System, files: list[Path], tmp_path: Path) -> None:
    import json

    recipe = load_recipe(f"{system.name}/tiny").with_training(steps=30, log_every=1, save_every=30)
    run = pretrain(recipe, files[0].parent, tmp_path / "run")
    losses = [p["loss"] for p in json.loads((run / "training_log.json").read_text())]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert hub.from_pretrained(run).embed(files[:1]).vectors.shape[1]


def test_the_same_seed_gives_the_same_views(system: System, files: list[Path]) -> None:
    recipe = load_recipe(f"{system.name}/tiny")
    task, processor = build_task(recipe)
    collator = system.load("collator")(processor, task.config, **recipe.pretext)
    samples = [s for f in files for s in processor.reader().read(Source.from_path(f)) if collator.cost(s)]

    def batch(seed: int) -> dict[str, torch.Tensor]:
        views = [collator.view(collator.prepare(s), seeded_generator(seed, i)) for i, s in enumerate(samples)]
        return collator.collate(views, Randomness.seeded(len(views), seed))

    one, again, other = batch(1), batch(1), batch(2)
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert any(one[k].shape != other[k].shape or not torch.equal(one[k], other[k]) for k in one)


def test_a_sample_is_masked_alike_whatever_shares_its_batch(system: System, files: list[Path]) -> None:
    """So that a run is the same on one process and on several, each with its part of a batch."""
    recipe = load_recipe(f"{system.name}/tiny")
    task, processor = build_task(recipe)
    collator = system.load("collator")(processor, task.config, **recipe.pretext)
    sample = next(s for f in files for s in processor.reader().read(Source.from_path(f)) if collator.cost(s))
    view = collator.view(collator.prepare(sample), seeded_generator(7))

    def masked(rows: int) -> dict[str, torch.Tensor]:
        # The same sample in the first of `rows` places, with the same generator.
        randomness = Randomness([seeded_generator(1, i) for i in range(rows)], seeded_generator(2))
        return collator.collate([view] * rows, randomness)

    alone, among = masked(1), masked(3)
    assert all(torch.equal(alone[k][0], among[k][0]) for k in alone if alone[k].ndim)


@pytest.mark.parametrize("content", [b"", b"\x00" * 4096, b"just some text, no signal\n", bytes(range(256)) * 40])
def test_what_is_no_native_file_is_refused(embedder: hub.Embedder, system: System, content: bytes) -> None:
    name = f"input{system.domain.suffixes[0]}"
    with pytest.raises(InvalidInput) as caught:
        embedder.embed(Source.from_bytes(content, name))
    assert caught.value.source and name in str(caught.value)
    assert len(str(caught.value)) < 400


def test_wrong_plain_values_are_refused(embedder: hub.Embedder) -> None:
    for value in (None, 3, [], {}, {"unknown": 1}, [[1, 2], [3]]):
        with pytest.raises(InvalidInput):
            list(embedder.read(value))


def test_readers_and_processors_are_of_the_contract(embedder: hub.Embedder) -> None:
    assert isinstance(embedder.reader, Reader) and isinstance(embedder.processor, Processor)
    assert embedder.reader.plain_form and embedder.reader.limits()


def test_domains_are_listed_without_being_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from hub.domain import domains; names = list(domains()); "
        "assert not [m for m in sys.modules if m.startswith('domains.')], 'imported'; print(len(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= len({d.name for d in domains().values()} - {"numbers"})


def test_a_missing_package_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from hub.errors import MissingDependency

    find = importlib.util.find_spec
    for domain in domains().values():
        for package in domain.requires:
            monkeypatch.setattr(
                importlib.util, "find_spec", lambda name, *a, p=package: None if name == p else find(name, *a)
            )
            with pytest.raises(MissingDependency, match=r"pip install"):
                domain.load("reader")
            assert domain.missing == (package,)

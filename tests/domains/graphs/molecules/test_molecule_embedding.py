from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hub
from hub.cards import list_models
from hub.domain import get_system
from hub.errors import InvalidInput
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.training.pretrain import build_task
from hub.training.recipe import load_recipe

BAD = {7: "C1CC", 31: "C*C dummy", 60: "CC(C)(C)(C)C five bonds"}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> hub.Embedder:
    task, processor = build_task(load_recipe("dsla/tiny"))
    folder = tmp_path_factory.mktemp("molecules") / "random"
    save_checkpoint(folder, task, processor)
    write_card(folder, card_metadata(get_system("dsla"), license="mit"), "# random\n\nFor tests.")
    return hub.from_pretrained(folder)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 lines: acids of growing length in a shuffled order, and three lines that are no molecules."""
    lines = [f"{'C' * (1 + 37 * i % 80)}C(=O)O acid {i}" for i in range(1, 81)]
    for number, text in BAD.items():
        lines[number - 1] = text
    path = tmp_path_factory.mktemp("files") / "acids.smi"
    path.write_text("\n".join(lines))
    return path


def test_bad_lines_are_reported_by_number_and_the_rest_embedded(embedder: hub.Embedder, file: Path) -> None:
    found = embedder.embed(file, on_error="collect")
    assert len(found) == 77 and len(found.errors) == len(BAD)
    for number, error in zip(BAD, found.errors, strict=True):
        assert str(error).startswith(f"{file}: line {number}: ")
    assert [key for _, key in found.items] == [f"acid {i}" for i in range(1, 81) if i not in BAD]
    # In the order of the file, whatever the batches were.
    for row in (0, 40, 76):
        smiles = file.read_text().splitlines()[int(found.items[row][1].split()[1]) - 1].split()[0]
        np.testing.assert_allclose(embedder.embed(smiles).vectors[0], found.vectors[row], atol=1e-5)
    with pytest.raises(InvalidInput, match="line 7: "):
        embedder.embed(file)


def test_a_list_of_smiles_is_a_list_of_inputs(embedder: hub.Embedder) -> None:
    found = embedder.embed(["CCO", "C1CC", "CCN"], on_error="collect")
    assert len(found) == 2 and str(found.errors[0]).startswith("C1CC: ")
    assert embedder.embed("CCO", pooling="none", layer=-1)[0].shape == (3, embedder.model.config.hidden_size)


def test_a_graph_that_is_no_molecule_is_refused(embedder: hub.Embedder) -> None:
    with pytest.raises(InvalidInput, match="takes molecules"):
        embedder.embed({"edge_index": [[0, 1], [1, 0]], "x": [[1.0], [2.0]]})


@pytest.mark.parametrize("name", ["graphmae-mol-tiny", "dsla-mol-tiny"])
def test_built_in_models_place_homologues_near_each_other(name: str) -> None:
    """Nearer than a molecule of the same size and another kind."""
    if not any(card.name == name and card.has_weights for card in list_models("graphs")):
        pytest.skip(f"{name} is not among the built-in models")
    embedder = hub.from_pretrained(name)
    vectors = np.asarray(embedder.embed(["CCCCCC(=O)O", "CCCCCCC(=O)O", "Cc1ccc(Cl)cc1N"]).vectors)
    near, far = np.linalg.norm(vectors[0] - vectors[1]), np.linalg.norm(vectors[0] - vectors[2])
    assert np.isfinite(vectors).all() and near < far / 2
    assert vectors.shape[1] == embedder.card.metadata["fmhub"]["dimension"]

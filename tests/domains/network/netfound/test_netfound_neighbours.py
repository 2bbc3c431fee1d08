from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import hub
from domains.network.embedded import embed_files
from domains.network.known import FILE, Known, load_known, save_known, thinned
from domains.network.labelling import grouped_by_capture, manifest_of
from domains.network.neighbourhood import KnownFlows, votes
from domains.network.reading import CaptureReader
from domains.network.samples import write_samples
from hub.cli import build
from hub.errors import InvalidCheckpoint, InvalidManifest, UnsupportedOption
from hub.finetuning.run import finetune
from hub.manifest import read_manifest
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Source
from hub.training.pretrain import build_task
from hub.training.recipe import load_recipe


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe("netfound/tiny")
    folder = tmp_path_factory.mktemp("network") / "netfound-random"
    save_checkpoint(folder, *build_task(recipe))
    write_card(folder, card_metadata(recipe.system, license="apache-2.0"), "# random\n\nFor tests.")
    return folder


def labels_by_endpoints(folder: Path) -> Path:
    """The sample captures with the protocol as label, in the form that labels of traffic have."""
    table = folder / "labels.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        columns = "file,proto,src_ip,src_port,dst_ip,dst_port,label,first_ts"
        writer.writerow(columns.split(","))
        for file in write_samples(folder)[:2]:
            for sample in CaptureReader().read(Source.from_path(file)):
                flow = sample.data
                source, port, target, other = flow.endpoints
                # As seen by the responder: direction must not matter.
                writer.writerow(
                    [file.name, flow.protocol, target, other, source, port, f"p{flow.protocol}", flow.start]
                )
    return table


def test_the_nearest_flows_and_their_votes() -> None:
    known = KnownFlows([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1], [1.1, 0.0]])
    labels = np.array(["a", "a", "b", "b", "b"])
    found = known.nearest([[0.05, 1.1], [1.2, 0.02]], 3)
    assert labels[found.rows[:, 0]].tolist() == ["a", "b"]
    assert votes(found, labels)[0] == ("a", pytest.approx(2 / 3)) and votes(found, labels)[1] == ("b", 1.0)
    with pytest.raises(ValueError, match="at least 2"):
        KnownFlows([[1.0]])


def test_what_lies_outside_scores_higher_than_what_is_usual() -> None:
    draw = np.random.default_rng(0)
    usual = np.concatenate([draw.normal(5, 1, (200, 3)), draw.normal(0, 0.1, (200, 3))], axis=1)
    strange = np.concatenate([draw.normal(5, 1, (20, 3)), draw.normal(3, 0.1, (20, 3))], axis=1)
    known = KnownFlows(usual[:150])
    assert known.anomaly_scores(strange, 3).mean() > known.anomaly_scores(usual[150:], 3).mean() + 0.2


def test_labels_by_endpoints_become_a_manifest_without_addresses(tmp_path: Path) -> None:
    table = labels_by_endpoints(tmp_path)
    rows = len(table.read_text().splitlines()) - 1
    found, lost = manifest_of(table, tmp_path / "flows.csv")
    assert (found, lost) == (rows, 0)
    manifest = read_manifest(tmp_path / "flows.csv", need=("file", "label", "item", "group"))
    assert len({(row.file, row.item) for row in manifest}) == rows
    assert "192.0.2" not in (tmp_path / "flows.csv").read_text()
    (tmp_path / "bad.csv").write_text("file,label\na.pcap,x\n")
    with pytest.raises(InvalidManifest, match="no column 'proto'"):
        manifest_of(tmp_path / "bad.csv", tmp_path / "out.csv")


def test_flows_of_a_capture_are_on_two_sides_only_if_told_to(tmp_path: Path) -> None:
    office = write_samples(tmp_path)[0]
    items = [s.key for s in CaptureReader().read(Source.from_path(office))][:4]
    manifest = tmp_path / "leak.csv"
    lines = [f"{office.name},{item},x,{'train' if i else 'test'}" for i, item in enumerate(items)]
    manifest.write_text("\n".join(["file,item,label,split", *lines]))
    rows = read_manifest(manifest)
    with pytest.raises(InvalidManifest, match=r"office\.pcap .*--leaky-split"):
        grouped_by_capture(rows, False)
    assert grouped_by_capture(rows, True) == rows
    assert {row.group for row in grouped_by_capture([r for r in rows if r.split == "train"], False)} == {str(office)}


def test_neighbours_and_anomalies_print_flows_without_their_addresses(checkpoint: Path, tmp_path: Path) -> None:
    manifest_of(labels_by_endpoints(tmp_path), tmp_path / "flows.csv")
    run = CliRunner()
    told = ["--model", str(checkpoint), "--json"]
    asked = ["neighbours", str(tmp_path / "office.pcap"), "--known", str(tmp_path / "flows.csv"), "-k", "1", *told]
    shown = run.invoke(build(asked), asked)
    assert shown.exit_code == 0, shown.output
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    # Each flow is its own nearest neighbour.
    assert all(row["label"] == {"udp": "p17", "tcp": "p6"}[row["protocol"]] for row in rows)
    assert max(row["distance"] for row in rows) < 1e-6 and "192.0.2" not in shown.stdout
    assert "192.0.2" in run.invoke(build(asked), [*asked, "--names"]).stdout
    asked = ["anomalies", str(tmp_path / "scan.pcap"), "--reference", str(tmp_path / "office.pcap"), *told]
    judged = run.invoke(build(asked), asked)
    scores = [json.loads(line)["score"] for line in judged.stdout.splitlines()]
    assert judged.exit_code == 0 and scores == sorted(scores, reverse=True) and 0 <= scores[-1] <= scores[0] <= 1


def test_a_model_explains_by_the_flows_that_come_with_it(checkpoint: Path, tmp_path: Path) -> None:
    office = write_samples(tmp_path)[0]
    asked = ["neighbours", str(office), "--model", str(checkpoint), "--json"]
    refused = CliRunner().invoke(build(asked), asked)
    assert isinstance(refused.exception, UnsupportedOption) and "give --known" in str(refused.exception)
    own = embed_files(hub.from_pretrained(checkpoint), [office])
    folder = tmp_path / "with-flows"
    shutil.copytree(checkpoint, folder)
    labels = np.array([f"number {row}" for row in range(len(own.samples))])
    save_known(Known(own.vectors, labels, own.files), folder)
    asked = ["neighbours", str(office), "--model", str(folder), "--json", "-k", "1"]
    rows = [json.loads(line) for line in CliRunner().invoke(build(asked), asked).stdout.splitlines()]
    assert [row["label"] for row in rows] == labels.tolist() and {row["nearest"][-11:] for row in rows} == {
        "office.pcap"
    }
    asked = ["embed", str(folder), str(office), "--explain"]
    shown = CliRunner().invoke(build(asked), asked)
    assert shown.exit_code == 0 and "number 0" in shown.stdout and "192.0.2" not in shown.stdout
    asked = ["embed", str(checkpoint), str(office)]
    assert "--explain" in str(CliRunner().invoke(build(asked), asked).exception)
    (folder / FILE).write_bytes(b"no tensors")
    with pytest.raises(InvalidCheckpoint, match="no known flows"):
        load_known(folder)


def test_known_flows_are_thinned_evenly_over_captures() -> None:
    labels, files = np.array([*"xxxxxy"]), [*"aaabca"]
    left = thinned(Known(np.arange(6, dtype=np.float32)[:, None], labels, files), 3)
    assert left.vectors[:, 0].tolist() == [0, 3, 4, 5] and left.files == ["a", "b", "c", "a"]
    assert left.labels.tolist() == ["x", "x", "x", "y"]


def test_the_built_in_model_has_known_flows_of_its_own_width() -> None:
    embedder = hub.from_pretrained("netfound-tiny")
    known = load_known(embedder.card.folder)
    assert known is not None and known.vectors.shape == (169, embedder.model.embedding_dimension())
    assert len(np.unique(known.labels)) == 13 and np.isfinite(known.vectors).all()


def test_the_script_fine_tunes_on_whole_captures(checkpoint: Path, tmp_path: Path) -> None:
    labels_by_endpoints(tmp_path)
    manifest_of(tmp_path / "labels.csv", tmp_path / "flows.csv", split=lambda row: "train")
    options = {"task": "classification", "epochs": 3, "valid_share": 0.0, "class_weights": "balanced"}
    finetune(checkpoint, tmp_path / "flows.csv", tmp_path / "tuned", options)
    tuned = hub.from_pretrained(tmp_path / "tuned")
    answers = tuned.run("classify", tmp_path / "office.pcap")
    assert {"label", "scores"} == set(answers[0]) and set(answers[0]["scores"]) == {"p1", "p17", "p6"}

"""What mutated files brought to light, each with the fewest bytes that show it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from domains.eeg.reading import EegReader
from domains.graphs.reading import GraphReader
from domains.graphs.samples import write_samples
from domains.medical.reading import MedicalReader
from domains.medical.samples import as_dicom
from domains.music.reading import MusicReader
from domains.sar.reading import RasterReader
from domains.speech.reading import AudioReader
from hub.errors import InvalidInput
from hub.reading import Reader, Source


def refused(reader: Reader, content: bytes, code: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        list(reader.read(Source.from_bytes(content, "x")))
    assert caught.value.code == code
    return caught.value.message


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


GRAPH = {"edge_index.npy": npy(np.array([[0, 1], [1, 0]])), "x.npy": npy(np.eye(2, dtype=np.float32))}


def test_a_numpy_header_that_is_no_literal() -> None:
    # The tokenizer's own error, of an open bracket.
    broken = npy(np.ones((16, 16), np.complex64)).replace(b"), }", b"(, {")
    refused(RasterReader(), broken, "damaged")
    refused(EegReader(), broken, "damaged")
    refused(GraphReader(), zipped(GRAPH | {"x.npy": broken}), "damaged")


def test_labels_of_a_graph_that_are_one_number() -> None:
    assert "'y'" in refused(GraphReader(), zipped(GRAPH | {"y.npy": npy(np.array(3))}), "bad_form")


def test_a_deflated_member_that_does_not_inflate() -> None:
    packed = zipped(GRAPH)
    start = packed.index(b"x.npy", packed.index(b"edge_index.npy") + 14) + 5
    # A block of the kind that deflate does not have.
    refused(GraphReader(), packed[:start] + b"\x07" + packed[start + 1 :], "damaged")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_archives_whose_decoder_takes_what_memory_the_file_says(method: int) -> None:
    scan = zipped({"1.dcm": as_dicom(np.arange(256.0).reshape(16, 16))}, method)
    header = zipped({"x.vhdr": b"Brain Vision", "x.eeg": b""}, method)
    for reader, content in (
        (MedicalReader(), scan),
        (EegReader(), header),
        (GraphReader(), zipped(GRAPH, method)),
    ):
        assert "deflate" in refused(reader, content, "zip_method")


def test_an_hdf5_group_whose_tree_leads_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["science/LSAR/image"] = np.ones((80, 96), np.complex64)
    content = path.read_bytes()
    trees = [at for at in range(len(content)) if content.startswith(b"TREE\x00", at)]
    assert trees
    for tree in trees:
        # The address of the next node, one short of "there is none".
        refused(RasterReader(), content[: tree + 16] + b"\xfe" + content[tree + 17 :], "damaged")


def test_a_pixel_of_four_hundred_digits() -> None:
    with pytest.raises(InvalidInput) as caught:
        list(RasterReader().parse(json.loads('{"amplitude": [[1, ' + "9" * 400 + "]]}")))
    assert caught.value.code == "bad_form"


@pytest.mark.parametrize("text", ["\ud800", "C\ud800C", "Cé"])
def test_a_smiles_of_other_letters(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(GraphReader().parse(text))
    assert caught.value.code == "invalid_smiles"


def test_a_molecule_that_breaks_a_precondition_of_rdkit(tmp_path: Path) -> None:
    block = write_samples(tmp_path)[2].read_text().partition("$$$$")[0]
    lines = block.splitlines(keepends=True)
    atom = next(n for n, line in enumerate(lines) if " C   0" in line)
    lines[atom] = lines[atom].replace(" C   0  0", " C   0  " + "9" * 400, 1)
    message = refused(GraphReader(), "".join(lines).encode(), "invalid_molblock")
    assert "Violation" not in message and ".cpp" not in message


@pytest.mark.parametrize("reader", [AudioReader(), MusicReader()])
def test_audio_whose_power_overflows(reader: Reader) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.linspace(-3e38, 3e38, 8_000, dtype=np.float32), 16_000, "FLOAT", format="WAV")
    assert "full scale" in refused(reader, buffer.getvalue(), "no_audio")

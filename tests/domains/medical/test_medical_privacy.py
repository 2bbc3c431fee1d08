"""Names planted wherever a file can identify a patient are found in nothing that comes out of the hub."""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from fastapi.testclient import TestClient
from nibabel.nifti1 import Nifti1Extension
from PIL import Image, PngImagePlugin
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from domains.medical.masks import read_mask
from domains.medical.reading import MedicalReader
from domains.medical.samples import as_dicom, phantom
from hub.cli import main
from hub.domain import get_domain
from hub.errors import InvalidInput
from hub.publishing import card_metadata, save_checkpoint, write_card
from hub.reading import Sample, Source
from hub.training.pretrain import build_task
from hub.training.recipe import load_recipe
from serving.app import create_app
from serving.config import check_settings
from serving.engine import Engine
from serving.logs import OWN_LOGGERS, configure_logging
from tests.domains.medical.files import archive

IDENTIFYING = """
    PatientName PatientID IssuerOfPatientID OtherPatientIDs OtherPatientNames PatientBirthDate PatientBirthTime
    PatientSex PatientAge PatientSize PatientWeight PatientAddress PatientTelephoneNumbers PatientMotherBirthName
    PatientBirthName EthnicGroup Occupation PatientComments AdditionalPatientHistory MedicalRecordLocator MilitaryRank
    CountryOfResidence RegionOfResidence PatientReligiousPreference ResponsiblePerson ResponsibleOrganization
    AccessionNumber StudyID ReferringPhysicianName ReferringPhysicianAddress PerformingPhysicianName OperatorsName
    NameOfPhysiciansReadingStudy PhysiciansOfRecord RequestingPhysician RequestingService InstitutionName
    InstitutionAddress InstitutionalDepartmentName StationName DeviceSerialNumber DeviceUID ProtocolName
    StudyDescription SeriesDescription ImageComments AdmissionID CurrentPatientLocation RequestedProcedureDescription
    PerformedProcedureStepDescription DerivationDescription StudyInstanceUID SOPInstanceUID FrameOfReferenceUID
    SeriesInstanceUID StudyDate SeriesDate AcquisitionDate ContentDate StudyTime AcquisitionDateTime
    DeidentificationMethod SoftwareVersions Manufacturer ManufacturerModelName BodyPartExamined ImageType
    ClinicalTrialSubjectID ClinicalTrialSiteName
""".split()
"""Elements of reference lists of identity (PS3.15, annex E), and some beside them."""


def secret(number: int, kind: str = "LO") -> str:
    """Return a text that nothing else holds, in the form that a value representation asks for."""
    if kind == "UI":
        return f"1.2.826.0.1.3680043.8.498.770077{number:04d}"
    if kind in ("DA", "DT"):
        return f"19{number % 90 + 10}1017"
    if kind == "TM":
        return f"1314{number % 60:02d}.770077"
    if kind == "DS":
        return f"77.0077{number:03d}"
    return f"Zq{number:04d}Wx" if kind in ("AS", "CS", "SH") else f"Planted{number:04d}^Zqwx"


def planted() -> tuple[Dataset, list[str]]:
    """Return a valid CT slice with a secret in every element that could hold one, and the secrets."""
    data = pydicom.dcmread(io.BytesIO(as_dicom(2000 * phantom(1, 32, 24)[0] - 1000, "CT")))
    secrets = []

    def plant(where: Dataset, keyword: str) -> None:
        kind = dictionary_VR(keyword)
        secrets.append(secret(len(secrets), kind))
        setattr(where, keyword, secrets[-1])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword in IDENTIFYING:
            plant(data, keyword)
        item = Dataset()
        plant(item, "PatientID")
        plant(item, "PatientName")
        data.OtherPatientIDsSequence = Sequence([item])
        block = data.private_block(0x0033, "Zq private creator", create=True)
        secrets.append("Zq private creator")
        for offset in range(4):
            secrets.append(secret(len(secrets)))
            block.add_new(offset, "LO", secrets[-1])
        secrets.append(secret(len(secrets)))
        data.add_new(0x60000022, "LO", secrets[-1])  # of an overlay
        data.add_new(0x60001500, "LO", secrets[-1])
        for name in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "PrivateInformationCreatorUID"):
            kind = dictionary_VR(name)
            secrets.append(secret(len(secrets), "SH" if kind == "AE" else kind))
            setattr(data.file_meta, name, secrets[-1])
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.preamble = b"Planted in the preamble".ljust(128, b"\0")
        secrets.append("Planted in the preamble")
    # "M" or a year would be found by chance; these are long enough to mean themselves.
    return data, [s for s in secrets if len(s) > 6]


def encoded(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(buffer)
    return buffer.getvalue()


def nifti() -> tuple[bytes, list[str]]:
    image = nibabel.Nifti1Image(np.round(900 * phantom(9, 10, 11)).astype(np.int16), np.eye(4))
    image.header["descrip"], image.header["aux_file"] = b"Planted0001^Zqwx", b"Planted0002^Zqwx"
    image.header["intent_name"], image.header["db_name"] = b"Planted0003", b"Planted0004"
    image.header.extensions.append(Nifti1Extension("comment", b"Planted0005^Zqwx"))
    secrets = [f"Planted000{n}" for n in range(1, 6)]
    content = image.to_bytes()
    assert all(s.encode() in content for s in secrets)
    return content, secrets


def pictures() -> Iterator[tuple[bytes, list[str]]]:
    grey = Image.fromarray(np.round(255 * phantom(1, 32, 24)[0]).astype(np.uint8))
    exif = Image.Exif()
    for number, tag in enumerate((0x010E, 0x013B, 0x8298, 0x9C9D, 0x0131)):  # description, artist, copyright, author
        exif[tag] = f"Planted000{number}^Zqwx" if tag != 0x9C9D else "Planted0003^Zqwx".encode("utf-16-le")
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "Planted0006^Zqwx")
    text.add_itxt("XML:com.adobe.xmp", "<x>Planted0007^Zqwx</x>", zip=False)
    secrets = [f"Planted000{n}" for n in range(8)]
    for kind, options in (
        ("PNG", {"exif": exif, "pnginfo": text}),
        ("JPEG", {"exif": exif, "comment": b"Planted0006^Zqwx", "xmp": b"Planted0007^Zqwx"}),
        ("TIFF", {"exif": exif, "description": "Planted0006^Zqwx"}),
    ):
        buffer = io.BytesIO()
        grey.save(buffer, kind, **options)
        yield buffer.getvalue(), secrets


def said(content: bytes, name: str) -> str:
    """Return all that reading a file tells of it: samples or errors, as text."""
    try:
        samples = list(MedicalReader().read(Source.from_bytes(content, name)))
    except InvalidInput as error:
        return f"{error} {error!r} {error.args} {vars(error)} {error.__cause__!r}"
    return " ".join(_told(sample) for sample in samples)


def _told(sample: Sample) -> str:
    held = vars(sample.data) if sample.data is not None else {}
    return (
        f"{sample!r} {sample} {sample.metadata} {sample.warnings} {sample.key} {sample.error!s} {sample.data!r} {held}"
    )


def broken(data: Dataset) -> Iterator[bytes]:
    """Yield the file damaged in ways that make libraries quote what they found."""
    content = encoded(data)
    for size in range(0, len(content), len(content) // 60):
        yield content[:size]
    random = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(content)
        for place in random.integers(0, 2600, 6):
            changed[place] = random.integers(0, 256)
        yield bytes(changed)
    kinds = (b"UI", b"PN", b"LO", b"DS", b"IS", b"US", b"SQ", b"UN", b"DA", b"OW")
    starts = [n for n in range(300, 2600) if content[n : n + 2] in kinds]
    for start in starts:  # another representation than the value has
        yield content[:start] + kinds[start % len(kinds)] + content[start + 2 :]
    # A number in which a name is.
    for keyword in ("Rows", "NumberOfFrames", "RescaleSlope", "PixelSpacing", "WindowCenter", "ImagePositionPatient"):
        tag = pydicom.tag.Tag(keyword)
        marker = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
        if marker in content:
            start = content.index(marker)
            value = b"Planted0000^Zqwx"
            yield content[:start] + marker + b"DS" + len(value).to_bytes(2, "little") + value + content[start + 8 :]


def test_nothing_that_is_read_or_refused_names_a_patient(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data, secrets = planted()
    content = encoded(data)
    assert sum(s.encode() in content for s in secrets) == len(secrets) > 60
    volume, planted_there = nifti()
    secrets += planted_there
    drawn = list(pictures())
    secrets += drawn[0][1]
    caplog.clear()  # of what was said while the files were made
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        texts = [said(content, "upload"), said(archive({f"{secrets[0]}/{secrets[1]}.dcm": content}), "upload")]
        assert all("shape" in t or "MedicalImage" in t for t in texts)
        texts += [said(damaged, "upload") for damaged in broken(data)]
        assert len(texts) > 250
        texts.append(said(volume, "upload"))
        texts += [said(volume[:size], "upload") for size in range(0, len(volume), 40)]
        for picture, _ in drawn:
            texts.append(said(picture, "upload"))
            assert "MedicalImage" in texts[-1]
            texts += [said(picture[:size], "upload") for size in range(0, len(picture), 60)]
        (image,) = (s.data for s in MedicalReader().read(Source.from_bytes(volume)))
        with pytest.raises(InvalidInput) as mask:
            read_mask(Source.from_bytes(volume, "mask"), image)
    out, err = capfd.readouterr()
    everything = "\n".join([*texts, str(mask.value), out, err, caplog.text, *(str(w.message) for w in caught)])
    assert not [s for s in set(secrets) if s in everything]
    assert "Planted" not in everything and "Zq" not in everything


def test_the_names_of_files_in_a_folder_are_not_told(tmp_path: Path) -> None:
    data, _ = planted()
    folder = tmp_path / "upload"
    folder.mkdir()
    for number in range(3):
        (folder / f"Planted0000^Zqwx-{number}.dcm").write_bytes(encoded(data)[: 4000 if number else None])
    samples = list(MedicalReader().read(Source(name="upload", path=folder)))
    assert len(samples) == 3 and "Zq" not in " ".join(_told(s) for s in samples)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints") / "random-model"
    save_checkpoint(folder, *build_task(load_recipe("lvm_med/tiny")))
    card = card_metadata(get_domain("medical").systems["lvm_med"], license="apache-2.0")
    write_card(folder, card, "# random\n\nFor tests.")
    return folder


def test_the_command_line_and_its_results_name_no_patient(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data, secrets = planted()
    files, out = tmp_path / "files", tmp_path / "out.jsonl"
    for part in ("whole", "cut"):
        (files / part).mkdir(parents=True)
    (files / "whole" / "1.dcm").write_bytes(encoded(data))
    (files / "cut" / "2.dcm").write_bytes(encoded(data)[:3000])
    volume, planted_there = nifti()
    (files / "volume.nii").write_bytes(volume)
    for number, (picture, _) in enumerate(pictures()):
        (files / f"{number}.png").write_bytes(picture)
    monkeypatch.setattr("sys.argv", ["fmhub", "embed", str(model), str(files), "--output", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    stdout, stderr = capfd.readouterr()
    result = out.read_text()
    assert result.count("\n") == 5 and "1.dcm" in result and "volume.nii" in result
    assert ended.value.code == 1 and "2.dcm" in stderr
    for text in (stdout, stderr, result):
        assert not [s for s in (*secrets, *planted_there) if s in text] and "Zq" not in text


@pytest.fixture
def plain_logging() -> Iterator[None]:
    """Take back what `configure_logging` does to the whole process."""
    loggers = [logging.getLogger(name) for name in OWN_LOGGERS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, state in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = state


def test_the_server_names_no_patient_in_answers_logs_or_metrics(
    model: Path, plain_logging: None, capfd: pytest.CaptureFixture[str]
) -> None:
    data, secrets = planted()
    content, log = encoded(data), io.StringIO()
    volume, planted_there = nifti()
    sent = [content, volume, archive({"Planted0000^Zqwx.dcm": content}), content[:3000], content[:5], volume[:400]]
    sent += list(broken(data))[60:90]
    settings = check_settings({"models": [str(model)], "torch_threads": 1})
    texts, codes = [], []
    with TestClient(create_app(Engine(settings)), raise_server_exceptions=False) as client:
        configure_logging(settings, log)
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        for upload in sent:
            answer = client.post("/v1/models/random-model/embeddings", files={"file": ("Zqwx.dcm", upload)})
            codes.append(answer.status_code)
            # The name of the file comes back to who sent it, and goes nowhere else.
            texts += [answer.text.replace("Zqwx.dcm", ""), str(answer.headers)]
        texts.append(client.get("/metrics").text)
    assert codes[:3] == [200, 200, 200] and set(codes[3:6]) <= {415, 422} and 500 not in codes
    assert log.getvalue().count("\n") >= len(sent)
    texts += [log.getvalue(), *capfd.readouterr()]
    for text in texts:
        assert not [s for s in (*secrets, *planted_there) if s in text] and "Zq" not in text

"""SMILES lists, CSV tables with a SMILES column, and MOL/SDF records to molecules.

A line, row or record that cannot be used is yielded as a sample with its ``error``, so that the others are used. A file
in which no molecule is usable is refused as a whole, with the first of its errors.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from rdkit import Chem, RDLogger

from domains.graphs.molecules.vocabulary import featurise
from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Sample, Source

# RDKit writes each problem to stderr; here they become errors.
RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]

SMILES_COLUMNS = ("smiles", "canonical_smiles", "isomeric_smiles", "mol")
"""Names of the column that holds SMILES, in lower case, the most telling first."""
NAME_COLUMNS = ("name", "id", "mol_id", "molecule_id", "compound id", "cid")
CHARACTERS_AN_ATOM = 20
"""A line longer than this many characters an atom allowed holds no molecule within the limit."""
LONGEST_NAME = 200


class Limits(Protocol):
    """What these functions need to know of a reader's limits."""

    @property
    def max_nodes(self) -> int:
        """Most atoms of one molecule."""


def parse_smiles(text: str, limits: Limits, key: str = "") -> Sample:
    """Read one SMILES.

    Args:
        text: A SMILES, with nothing around it but spaces.
        limits: Of the reader.
        key: Of the sample.

    Raises:
        InvalidInput: It is no SMILES, breaks the rules of valence, or has an atom or bond without embedding.
        TooLarge: It has more atoms than the limits allow.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"a SMILES is a string, not {type(text).__name__}", code="invalid_smiles")
    text = text.strip()
    if not text:
        raise InvalidInput("the SMILES is empty", code="empty_molecule")
    if len(text) > CHARACTERS_AN_ATOM * limits.max_nodes:
        raise TooLarge(
            f"the SMILES has {len(text):,} characters; molecules of at most {limits.max_nodes} atoms are read"
        )
    if not text.isascii():
        raise InvalidInput("a SMILES has ASCII characters only", code="invalid_smiles")
    molecule = Chem.MolFromSmiles(text)
    if molecule is None:
        raise InvalidInput(_why_not(Chem.MolFromSmiles(text, sanitize=False)), code="invalid_smiles")
    return _sample(molecule, text, key, limits)


def _sample(molecule: Chem.Mol, smiles: str, key: str, limits: Limits) -> Sample:
    atoms = molecule.GetNumAtoms()
    if atoms > limits.max_nodes:
        raise TooLarge(f"the molecule has {atoms} atoms; at most {limits.max_nodes} are read")
    graph = featurise(molecule, smiles)
    fragments = len(Chem.GetMolFrags(molecule))
    doubts = []
    if fragments > 1:
        text = f"{fragments} fragments side by side, as of a salt or mixture: one vector stands for all of them."
        doubts.append(Doubt(text, "isolated"))
    elif atoms == 1:
        doubts.append(Doubt("A single atom: there is no bond to learn from.", "isolated"))
    return Sample(graph, key, tuple(doubts), {"atoms": atoms, "bonds": molecule.GetNumBonds(), "fragments": fragments})


def _why_not(molecule: Chem.Mol | None) -> str:
    """Say why a molecule that was parsed without checks (``None``: not even that) failed them."""
    if molecule is None:
        return "this is no SMILES: look for unclosed rings or brackets and unknown symbols"
    try:
        problems = Chem.DetectChemistryProblems(molecule)
    except RuntimeError:  # a violated precondition of RDKit's
        problems = ()
    if not problems:
        return "RDKit cannot make sense of this molecule"
    first = problems[0]
    if first.GetType() == "KekulizeException":
        atoms = ", ".join(str(index + 1) for index in first.GetAtomIndices())
        return f"the aromatic atoms {atoms} cannot be given alternating bonds (can't kekulize)"
    # RDKit counts atoms from 0, our messages and mol blocks from 1.
    return re.sub(r"atom # (\d+)", lambda found: f"atom {int(found[1]) + 1}", first.Message())


def read_smiles(source: Source, limits: Limits) -> Iterator[Sample]:
    """Yield the molecules of a SMILES file: one a line, a name after the first space or tab; empty lines are skipped.

    A first line whose first word is "smiles" is a header.

    Raises:
        InvalidInput: The file is no text, or holds no usable molecule.
    """

    def samples() -> Iterator[Sample]:
        for number, line in _lines(source, limits):
            smiles, _, name = line.strip().replace("\t", " ").partition(" ")
            if smiles and not (number == 1 and smiles.lower() == "smiles"):
                yield _guarded(smiles, name, f"line {number}", source, limits)

    yield from _with_a_usable_one(samples(), "a SMILES file holds one molecule a line")


def read_csv(source: Source, limits: Limits) -> Iterator[Sample]:
    """Yield the molecules of a CSV table: of the column called smiles (or `SMILES_COLUMNS`), in any case of letters.

    Raises:
        InvalidInput: The file is no text, has no such column, or holds no usable molecule.
    """

    def samples() -> Iterator[Sample]:
        reader = csv.reader(line for _, line in _lines(source, limits))
        header = next(reader, [])
        columns = [column.strip().lower() for column in header]
        smiles = next((columns.index(c) for c in SMILES_COLUMNS if c in columns), None)
        if smiles is None:
            shown = ", ".join(repr(column[:40]) for column in header[:12])
            raise InvalidInput(f"no column is called 'smiles'; the columns are {shown or 'none'}", code="no_smiles")
        name = next((columns.index(c) for c in NAME_COLUMNS if c in columns), None)
        for row in reader:
            if row:
                cells = [cell.strip() for cell in row] + [""] * (len(header) - len(row))
                called = "" if name is None else cells[name]
                yield _guarded(cells[smiles], called, f"line {reader.line_num}", source, limits)

    try:
        yield from _with_a_usable_one(samples(), "the table has no rows")
    except csv.Error as error:
        raise InvalidInput(f"this is no CSV table: {error}", code="invalid_csv") from None


def read_sdf(source: Source, limits: Limits) -> Iterator[Sample]:
    """Yield the molecules of an SDF or MOL file; a record's first line is its name.

    Raises:
        InvalidInput: The file is no text, or holds no usable molecule.
    """

    def samples() -> Iterator[Sample]:
        for number, block in enumerate(_records(source, limits), start=1):
            place = f"record {number}"
            name = block.partition("\n")[0].strip()
            try:
                yield _from_block(block, name[:LONGEST_NAME] or place, limits)
            except InvalidInput as error:
                yield _failed(error, name, place, source)

    yield from _with_a_usable_one(samples(), "an SDF file holds MOL blocks")


def _from_block(block: str, key: str, limits: Limits) -> Sample:
    try:
        molecule = Chem.MolFromMolBlock(block)
        if molecule is None:
            loose = Chem.MolFromMolBlock(block, sanitize=False)
            reason = "the MOL block is damaged or ends too early" if loose is None else _why_not(loose)
            raise InvalidInput(reason, code="invalid_molblock")
        if molecule.GetNumConformers():
            # E and Z are in the coordinates; the vocabulary knows them as bond directions, which a SMILES writes out.
            Chem.SetDoubleBondNeighborDirections(molecule, molecule.GetConformer())
        smiles = Chem.MolToSmiles(molecule)
    except RuntimeError:  # a violated precondition of RDKit's; its text tells of RDKit's files
        raise InvalidInput("RDKit cannot make sense of this MOL block", code="invalid_molblock") from None
    return _sample(molecule, smiles, key, limits)


def _guarded(smiles: str, name: str, place: str, source: Source, limits: Limits) -> Sample:
    """Return the molecule of one line, or a sample that says what is wrong with it."""
    name = name.strip()[:LONGEST_NAME]
    try:
        return parse_smiles(smiles, limits, name or place)
    except InvalidInput as error:
        return _failed(error, name, place, source)


def _failed(error: InvalidInput, name: str, place: str, source: Source) -> Sample:
    error.message = f"{place}: {error.message}"
    return Sample(data=None, key=name or place, error=error.at(source.name))


def _with_a_usable_one(samples: Iterable[Sample], empty: str) -> Iterator[Sample]:
    """Pass samples on, but raise the first error if no sample at all is usable."""
    failed: list[Sample] = []
    usable = False
    for sample in samples:
        if usable:
            yield sample
        elif sample.error is not None:
            failed.append(sample)
        else:
            usable = True
            yield from failed
            yield sample
    if not usable:
        if not failed:
            raise InvalidInput(f"the file holds no molecule; {empty}", code="empty_file")
        first = failed[0].error
        assert first is not None
        if len(failed) > 1:
            first.message += f" (and none of the other {len(failed) - 1:,} is usable)"
        raise first


def _lines(source: Source, limits: Limits) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line.

    UTF-8 is expected; bytes that are none are read as Latin-1, which keeps a name readable. SMILES are ASCII.

    Raises:
        UnsupportedFormat: It is no text.
        TooLarge: A line is too long to hold a molecule within the limits.
    """
    longest = CHARACTERS_AN_ATOM * limits.max_nodes + 10_000
    with source.open() as stream:
        number = 0
        while raw := stream.readline(longest + 1):
            number += 1
            if b"\x00" in raw:
                raise UnsupportedFormat("this is no text file: it holds zero bytes", code="not_text")
            if len(raw) > longest:
                raise TooLarge(f"line {number} is longer than {longest:,} characters")
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                yield number, raw.decode("latin-1")


def _records(source: Source, limits: Limits) -> Iterator[str]:
    """Yield the text of each record of an SDF file; that of a MOL file is the only one."""
    lines: list[str] = []
    # An atom and a bond are a line each, and molecules have few more bonds than atoms.
    longest = 20 * limits.max_nodes + 100_000
    for _, line in _lines(source, limits):
        if line.startswith("$$$$"):
            yield "".join(lines)
            lines = []
            continue
        lines.append(line)
        if len(lines) > longest:
            raise TooLarge(f"a record is longer than {longest:,} lines")
    if "".join(lines).strip():
        yield "".join(lines)

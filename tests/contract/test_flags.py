"""What a reader doubts has a code that programs know, and what it tells is safe to send."""

from __future__ import annotations

import ast
import copy
import json
import pickle
from pathlib import Path

import pytest

from hub.domain import Domain, domains
from hub.doubts import FLAGS, Doubt, codes_of
from hub.reading import Sample, Source

ROOT = Path(__file__).parents[2]
SAID = {"warnings", "doubts", "notes", "said"}


def test_a_doubt_is_its_sentence_and_keeps_its_code() -> None:
    doubt = Doubt("It is silent.", "silent")
    for same in (doubt, pickle.loads(pickle.dumps(doubt)), copy.deepcopy(doubt)):
        assert same == "It is silent." and same.code == "silent" and json.dumps(same) == '"It is silent."'
    with pytest.raises(ValueError, match="no flag 'quiet'"):
        Doubt("It is quiet.", "quiet")
    several = [doubt, "no code", Doubt("Again.", "silent"), Doubt("Cut.", "truncated")]
    assert codes_of(several) == ("silent", "truncated")
    sample = pickle.loads(pickle.dumps(Sample(1, warnings=(doubt,))))
    assert sample.flags == ("silent",) and sample.warnings == ("It is silent.",)


@pytest.mark.parametrize("domain", [d for d in domains().values() if not d.missing], ids=lambda d: d.name)
def test_what_sample_files_are_told_has_codes_and_is_json(domain: Domain, tmp_path: Path) -> None:
    reader = domain.load("reader")()
    for file in domain.load("samples")(tmp_path):
        for sample in reader.read(Source.from_path(file)):
            assert all(isinstance(w, Doubt) for w in sample.warnings), sample.warnings
            facts = json.dumps(dict(sample.metadata), allow_nan=False)
            assert len(facts) < 1_000 and str(tmp_path) not in facts


def test_no_domain_warns_without_a_code() -> None:
    """A sentence in the code that goes straight to a list of warnings is no `Doubt`."""
    bare = []
    for path in sorted((ROOT / "domains").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append"):
                continue
            target = node.func.value
            name = getattr(target, "id", None) or getattr(target, "attr", "")
            if name in SAID and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not bare


def test_the_page_lists_every_flag() -> None:
    page = (ROOT / "docs" / "sanity.md").read_text(encoding="utf-8")
    assert [code for code in FLAGS if f"| `{code}` | {FLAGS[code]} |" not in page] == []

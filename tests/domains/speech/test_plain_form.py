from __future__ import annotations

import json

import numpy as np
import pytest

from domains.speech.reading import AudioReader
from hub.errors import InvalidInput, TooLarge
from hub.reading import Sample

TONE = [0.1, -0.2, 0.3, -0.1] * 400


def parse(value, name: str = "input[3]") -> Sample:
    (sample,) = AudioReader().parse(value, name)
    return sample


@pytest.mark.parametrize(
    "samples",
    [
        TONE,
        tuple(TONE),
        np.array(TONE),
        np.array(TONE, np.float32),
        list(np.array(TONE, np.float32)),
        [0, 1, -1, 0.5] * 400,
    ],
    ids=["list", "tuple", "float64", "float32", "numpy scalars", "whole numbers"],
)
def test_lists_and_arrays_are_waveforms(samples):
    sample = parse({"samples": samples, "sampling_rate": 16_000})
    np.testing.assert_allclose(sample.data.samples, np.asarray(samples, np.float32), atol=1e-7)
    assert sample.metadata == {"seconds": 0.1, "sampling_rate": 16_000, "channels": 1}


def test_an_integer_array_has_the_scale_of_its_type():
    sample = parse({"samples": np.array([16_384, -32_768] * 800, np.int16), "sampling_rate": 8_000.0})
    assert sample.data.samples[:2].tolist() == [0.5, -1.0]
    assert sample.data.sampling_rate == 8_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "expected mono samples"),
        ([0.1, 0.2], "expected mono samples"),
        ("UklGRg", "expected mono samples"),
        ({}, "'sampling_rate' is missing.*'samples' is missing"),
        ({"samples": TONE}, "'sampling_rate' is missing"),
        ({"samples": TONE, "sampling_rate": None}, "'sampling_rate' is missing"),
        ({"samples": TONE, "sampling_rate": "16000"}, "'sampling_rate'.*text"),
        ({"samples": TONE, "sampling_rate": True}, "'sampling_rate'.*true or false"),
        ({"samples": TONE, "sampling_rate": 16_000.5}, "'sampling_rate'.*whole"),
        ({"samples": TONE, "sampling_rate": float("inf")}, "'sampling_rate'.*whole"),
        ({"samples": TONE, "sampling_rate": 3}, "4000 to 192000"),
        ({"samples": "0.1,0.2", "sampling_rate": 16_000}, "'samples'.*text"),
        ({"samples": {"0": 0.1}, "sampling_rate": 16_000}, "'samples'.*an object"),
        ({"samples": 0.5, "sampling_rate": 16_000}, "'samples'.*number"),
        ({"samples": [0.1, None, *TONE], "sampling_rate": 16_000}, r"'samples\[1\]' is null"),
        ({"samples": [0.1, "0.2", None], "sampling_rate": 16_000}, r"'samples\[1\]' and 1 more is text"),
        ({"samples": [True, False] * 800, "sampling_rate": 16_000}, "true or false"),
        ({"samples": [[0.1, 0.2], [0.3]], "sampling_rate": 16_000}, r"'samples\[0\]'.*a list.*mono"),
        ({"samples": np.zeros((2, 800)), "sampling_rate": 16_000}, "2 dimensions"),
        ({"samples": np.array(["a"]), "sampling_rate": 16_000}, "list of numbers"),
        ({"samples": [*TONE, float("nan")], "sampling_rate": 16_000}, "NaN"),
        ({"samples": [*TONE, 1e300], "sampling_rate": 16_000}, "infinite"),
        ({"samples": [*TONE, 10**400], "sampling_rate": 16_000}, "too large"),
        ({"samples": [], "sampling_rate": 16_000}, "no audio"),
        ({"samples": [0.1] * 20, "sampling_rate": 16_000}, r"0\.05 s"),
        ({"samples": TONE, "sampling_rate": 16_000, "secret_field": 1}, "1 unknown field"),
    ],
)
def test_a_wrong_form_is_refused_by_its_fields(value, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        parse(value)
    assert caught.value.source == "input[3]"


def test_all_bad_fields_are_named_at_once():
    with pytest.raises(InvalidInput) as caught:
        parse({"samples": [None], "sampling_rate": "fast", "more": 1})
    for part in ("unknown", "sampling_rate", "samples[0]"):
        assert part in caught.value.message


def test_messages_never_repeat_what_was_sent():
    secret = "patient-4711"
    for value in (
        {"samples": [secret], "sampling_rate": 16_000},
        {"samples": TONE, "sampling_rate": secret},
        {"samples": TONE, "sampling_rate": 16_000, secret: 1},
        secret,
    ):
        with pytest.raises(InvalidInput) as caught:
            parse(value)
        assert secret not in str(caught.value)


def test_limits_hold_for_lists_too():
    reader = AudioReader(max_seconds=0.05)
    with pytest.raises(TooLarge):
        list(reader.parse({"samples": TONE, "sampling_rate": 16_000}))


def test_the_example_of_the_form_can_be_sent():
    text = AudioReader.plain_form[AudioReader.plain_form.index("{") :].replace("0.1, ...", "0.1" + ", 0.2" * 900)
    assert parse(json.loads(text)).data.sampling_rate == 16_000

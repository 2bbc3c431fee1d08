"""What speaks against an input that is accepted: a sentence for people with a code for programs.

The vocabulary is closed, so that a program can act on a code whatever domain it comes from. A domain that needs another
word adds it here, in words that name no domain.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

FLAGS = MappingProxyType(
    {
        # nothing, or next to nothing, in it
        "silent": "every value is zero",
        "constant": "every value is the same",
        "cancelled": "the channels cancel each other when they are mixed",
        "too_quiet": "so weak that rounding or noise of the recorder is what is left",
        "flat_channels": "some channels hold one constant value",
        "few_values": "few different values: far fewer levels than a recording of its kind has",
        "isolated": "parts that nothing connects: nodes without edges, or several components",
        "missing_data": "a share of the values is marked, or looks, as missing",
        # levels and units
        "clipped": "values stand at the end of the range, as after overdriving",
        "dc_offset": "a constant offset that is large beside the signal",
        "mains_hum": "the mains' frequency carries much of the power",
        "unit_assumed": "nothing states the unit; one was assumed",
        "scale_assumed": "what the values mean was taken from their range, or is not known",
        "scale_implausible": "values of a size that the stated unit or full scale cannot have",
        "inverted": "the values were turned round, as the header asks",
        # rate, spacing, geometry, size
        "rate_assumed": "nothing states the sampling rate; one was assumed",
        "upsampled": "recorded at a lower rate than the model's: the upper part of its band is empty",
        "resampled_part": "channels of lower rates were brought to the rate of the others",
        "spacing_out_of_range": "spacing of samples in space outside what the model's kind of data has",
        "spacing_assumed": "the spacing is unknown, or stated in two ways; one was taken",
        "orientation_assumed": "nothing states the orientation or place; one was assumed",
        "uneven_spacing": "parts that are unevenly spaced, or shifted against each other, taken as a regular grid",
        "length_out_of_range": "shorter or longer than what the model was trained on",
        "level_out_of_range": "a level outside what the model was trained for",
        "geometry": "resampled or arranged in a way that the model did not see",
        "spectrum": "a spectrum of another shape than the model was trained on",
        "unusual_content": "holds building blocks that are rare, or absent, in what such models are trained on",
        # what happened to the file
        "truncated": "cut off, or damaged towards its end; what comes before is used",
        "damaged": "damaged within; what comes before the damage is used",
        "span_past_end": "the part asked for ends after the recording does",
        "dropped_part": "a part of the input is left out",
        "split_part": "one whole was ended early, and goes on as another",
        "joined_parts": "pieces with gaps between them were joined",
        "repeated_part": "a part is there twice and used once",
        "cut_values": "values were recorded only in part, as under a snap length",
        "one_direction": "only one direction of what goes both ways is there",
        "converted": "brought to the model's form with loss, such as transparency laid over black",
        "identity_risk": "it may show who it is of: text burned into an image",
    }
)
"""Codes and what they mean."""


class Doubt(str):
    """A sentence about an input that is accepted, with its code; everywhere else it is a plain string.

    Attributes:
        code: One of `FLAGS`.
    """

    code: str

    def __new__(cls, text: str, code: str) -> Doubt:
        """Return a sentence with its code.

        Raises:
            ValueError: The code is not in the vocabulary.
        """
        if code not in FLAGS:
            raise ValueError(f"no flag {code!r}; hub/doubts.py lists them")
        doubt = super().__new__(cls, text)
        doubt.code = code
        return doubt

    def __reduce__(self) -> tuple[type[Doubt], tuple[str, str]]:
        """Keep the code through pickle and copy."""
        return Doubt, (str(self), self.code)


def codes_of(sentences: Iterable[str]) -> tuple[str, ...]:
    """Return the codes of sentences in their order, each once; a sentence without one gives none."""
    return tuple(dict.fromkeys(s.code for s in sentences if isinstance(s, Doubt)))

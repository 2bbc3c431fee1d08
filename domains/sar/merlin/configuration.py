"""Configuration of MERLIN: widths of the U-Net, constants of the sensor, and how an image is cut to tiles."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict

from hub.configuration import EmbeddingConfig

INPUTS = ("complex", "amplitude")
MULTIPLE = 32
"""Five poolings by two: height and width of a tile are multiples of this."""


@strict
class MerlinConfig(EmbeddingConfig):
    """Widths, sensor constants and tiling.

    The defaults are those of the published stripmap and spotlight models. The constants are not in the published
    weights: a checkpoint is only what it is together with them.

    Attributes:
        hidden_size: Channels of the encoder, and width of the token states.
        decoder_size: Channels of the decoder.
        head_sizes: Channels of the first two of the three last convolutions.
        log_maximum: M, the largest logarithm of an amplitude that the sensor's digital numbers were seen to have.
        log_minimum: m, the smallest.
        input: ``"complex"`` for real and imaginary parts judged apart (MERLIN), or ``"amplitude"`` for one detected
            image (SAR2SAR, which shares the network).
        symmetrise: Whether a tile's spectrum is centred first, so that the two parts are independent.
        patch: Side of a tile, pixels; a multiple of 32.
        stride: Step between tiles, pixels.
        taper: Whether overlapping tiles are blended by a ramp over the overlap; otherwise by their plain mean, as in
            the published code.
    """

    model_type = "merlin"

    hidden_size: int = 48
    decoder_size: int = 96
    head_sizes: list[int] | tuple[int, ...] = (64, 32)
    log_maximum: float | int = 10.089038980848645
    log_minimum: float | int = -1.429329123112601
    input: str = "complex"
    symmetrise: bool = True
    patch: int = 256
    stride: int = 254
    taper: bool = False

    @property
    def log_range(self) -> float:
        """M - m."""
        return float(self.log_maximum - self.log_minimum)

    @property
    def parts(self) -> int:
        """Real images that an input consists of: two of a complex image, one of a detected one."""
        return 2 if self.input == "complex" else 1

    def validate_sizes(self) -> None:
        """Raise ValueError when a width is not positive or a tile cannot be pooled five times."""
        if min(self.hidden_size, self.decoder_size, *self.head_sizes) < 1 or len(self.head_sizes) != 2:
            raise ValueError("hidden_size, decoder_size and the two head_sizes must be at least 1")
        if self.patch < MULTIPLE or self.patch % MULTIPLE:
            raise ValueError(f"patch={self.patch}: must be a multiple of {MULTIPLE}")
        if not 1 <= self.stride <= self.patch:
            raise ValueError(f"stride={self.stride}: must lie between 1 and patch ({self.patch})")
        if self.taper and 2 * (self.patch - self.stride) > self.patch:
            raise ValueError(f"stride={self.stride}: with taper, at least half of patch ({self.patch})")

    def validate_constants(self) -> None:
        """Raise ValueError when the constants are no range, or the input is unknown."""
        if self.log_maximum <= self.log_minimum:
            raise ValueError(f"log_maximum={self.log_maximum} must be above log_minimum={self.log_minimum}")
        if self.input not in INPUTS:
            raise ValueError(f"input={self.input!r}: choose one of {', '.join(INPUTS)}")

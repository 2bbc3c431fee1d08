"""One clear sentence for the one combination of packages that installs without complaint and cannot work.

The PyPI wheel of torchaudio is a CUDA build. Beside a CPU-only torch its import raises OSError, and takes transformers'
audio and Trainer modules with it, somewhere deep. Importing this module first says so at once.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from hub.errors import MissingDependency


def check_stack() -> None:
    """Import torchaudio if it is installed.

    Raises:
        MissingDependency: It cannot be loaded beside this torch; the text says what is installed and what to install.
    """
    try:
        version("torchaudio")
        import torchaudio  # noqa: F401
    except PackageNotFoundError:
        return
    except OSError:
        import torch

        raise MissingDependency(
            f"torchaudio {version('torchaudio')} cannot be loaded beside torch {torch.__version__}: the one is a CUDA "
            "build, the other is not; run: pip install --force-reinstall 'torch>=2.11,<2.15' torchaudio torchvision "
            "(the ordinary torch also runs on a CPU)"
        ) from None


check_stack()

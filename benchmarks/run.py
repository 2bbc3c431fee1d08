"""``make bench``: every comparison in one run; the figures depend on the machine, the ratios less so."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

COMPARISONS = ("embedding", "training", "capture", "despeckling", "serving")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help=f"some of {', '.join(COMPARISONS)}; all unless given")
    chosen = parser.parse_args().only or COMPARISONS
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    )
    for name in chosen:
        for result in importlib.import_module(f"benchmarks.{name}").run():
            print(f"\n{result.report()}", flush=True)


if __name__ == "__main__":
    main()

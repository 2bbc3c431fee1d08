from __future__ import annotations

from pathlib import Path

import torch


def test_case(golden_case, adapter, compare) -> None:
    folder, name = golden_case
    assert isinstance(folder, Path), folder
    torch.manual_seed(0)
    adapter(name, folder).check(folder, compare)
    compare.finish()

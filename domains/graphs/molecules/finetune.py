"""What is known about fine-tuning molecular encoders."""

from __future__ import annotations

from hub.finetuning.options import Preset


def preset() -> Preset:
    """Return the published settings as far as they carry over to small encoders.

    pretrain-gnns, GraphMAE and D-SLA fine-tune encoder and linear head alike, with Adam at 1e-3 and batches of 32. The
    head reads the checkpoint's own embedding, which for their published ones is the mean of the last layer.
    """
    whole = {
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-3,
        "batch_size": 32,
        "weight_decay": 0.0,
        "epochs": 30,
        "patience": 10,
    }
    return Preset(
        defaults={
            "frozen": {"batch_size": 32},
            "full": whole,
            "layerwise": whole,
            "lora": {**whole, "learning_rate": 2e-3},
        }
    )

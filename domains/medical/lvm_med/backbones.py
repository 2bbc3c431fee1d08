"""The two kinds of encoder: a ResNet under torchvision's names, and Segment Anything's ViT from transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from transformers.models.sam.modeling_sam import SamVisionEncoder

from domains.medical.lvm_med.configuration import LVMMedConfig

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """torchvision's ResNet (its blocks and its names, so that its files load) of any width, without the classifier."""

    def __init__(self, config: LVMMedConfig) -> None:
        """Create the stem and the stages ``layer1``, ``layer2``, ... with torchvision's initialisation."""
        super().__init__()
        block = BLOCKS[config.block]
        self.conv1 = nn.Conv2d(3, config.width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = config.width
        for stage, depth in enumerate(config.depths):
            planes, stride = config.width * 2**stage, 1 if stage == 0 else 2
            layers = []
            for number in range(depth):
                step = stride if number == 0 else 1
                shortcut = None
                if step != 1 or channels != planes * block.expansion:
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, planes * block.expansion, kernel_size=1, stride=step, bias=False),
                        nn.BatchNorm2d(planes * block.expansion),
                    )
                layers.append(block(channels, planes, step, shortcut))
                channels = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(config.depths)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the map of each stage, ``(images, channels, rows, columns)``, strides 4, 8, 16, ..."""
        states = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        maps = []
        for stage in range(self.stages):
            states = getattr(self, f"layer{stage + 1}")(states)
            maps.append(states)
        return maps


class SamViT(SamVisionEncoder):  # type: ignore[misc]  # transformers is untyped here
    """The image encoder of Segment Anything as LVM-Med uses it, at any multiple of the patch.

    The neck is kept for whoever goes on with SAM's decoder. It is no part of the embedding and not trained here.
    """

    def __init__(self, config: Any) -> None:
        """Create the encoder."""
        super().__init__(config)
        self.neck.requires_grad_(False)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Return the embedded patches and each layer's output, ``(images, hidden, rows, columns)``.

        transformers' own ``forward`` takes one size only; tables of relative positions are interpolated for others.
        """
        states = self.patch_embed.projection(pixels).permute(0, 2, 3, 1)
        found = [states]
        for layer in self.layers:
            states = layer(states)
            found.append(states)
        return [state.permute(0, 3, 1, 2) for state in found]

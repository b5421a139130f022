"""The two kinds of model that are searched, as the search needs to know them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seqvis.config import Settings
from seqvis.devise import train as devise
from seqvis.devise.settings import DeviseSettings
from seqvis.storage import Location
from seqvis.training.checkpoints import CheckpointStore
from seqvis.training.launch import run_directory
from seqvis.translation import train as translation


@dataclass(frozen=True)
class Kind:
    """What differs between searches."""

    artifact: str  # kind of the trained artifact
    settings: type[Settings]
    train: Callable[..., dict[str, Any]]
    paths: frozenset[str]  # settings that say where things are, not what a model becomes
    shaping: tuple[str, ...]  # beginnings of settings that a run's checkpoint is bound to
    not_shaping: tuple[str, ...]  # exceptions to these
    stage: str  # of the checkpoints, below OUT.run/checkpoints

    def checkpoints(self, out: Location) -> CheckpointStore:
        """Where a training that writes to `out` has its checkpoints."""
        folder = run_directory(out) / "checkpoints"
        return CheckpointStore(folder / self.stage if self.stage else folder)

    def can_change(self, path: str) -> bool:
        """Whether a run may go on from a checkpoint with another value of this setting."""
        if path.startswith(self.not_shaping):
            return True
        return not path.startswith(self.shaping)


TRANSLATOR = Kind(
    artifact="translator",
    settings=translation.TrainSettings,
    train=translation.train,
    paths=frozenset({"corpus", "vectors_source", "vectors_target"}),
    shaping=("variant", "model.", "epochs", "fit.", "batches."),
    not_shaping=("model.dropout.",),
    stage="",
)
DEVISE = Kind(
    artifact="devise",
    settings=DeviseSettings,
    train=devise.train,
    paths=frozenset({"features", "vectors", "unseen", "validation_features"}),
    shaping=("method", "head.", "centred", "validation_", "epochs", "fit.", "batch_size"),
    not_shaping=("head.dropout",),
    stage="head",
)
KINDS = {kind.artifact: kind for kind in (TRANSLATOR, DEVISE)}

"""What the functions of the library have in common: their arguments, and the Ray they use."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from seqvis import cluster
from seqvis.artifacts import MANIFEST, Artifact
from seqvis.checks import require_extra
from seqvis.config import Settings, settings_from
from seqvis.storage import HUGGING_FACE, Location, locate

S = TypeVar("S", bound=Settings)


def uri_of(place: Any) -> str:
    """Return as text where an artifact is: of a path, a URI, an artifact, or what it was opened as.

    Raises TypeError for anything else.
    """
    artifact = getattr(place, "artifact", place)
    return locate(artifact.location if isinstance(artifact, Artifact) else artifact).uri


def _plain(value: Any) -> Any:
    """Return a setting's value, a place as text."""
    is_place = isinstance(value, os.PathLike | Location | Artifact) or hasattr(value, "artifact")
    return uri_of(value) if is_place else value


def settings_for(cls: type[S], function: str, values: dict[str, Any]) -> S:
    """Return the settings of a call. Raises ConfigError that names the function and what is wrong.

    Arguments that are None are left to their defaults.
    """
    given = {name: _plain(value) for name, value in values.items() if value is not None}
    settings: S = settings_from(cls, given, function, flags=False)
    return settings


def is_artifact(given: Any) -> bool:
    """Tell whether an artifact was given, opened or not, or else the data that one is made of."""
    if isinstance(given, Artifact) or hasattr(given, "artifact"):
        return True
    if isinstance(given, str) and given.startswith(HUGGING_FACE):
        return False
    return (locate(given) / MANIFEST).exists()


def require_ray() -> None:
    """Raise ConfigError if Ray is not installed. To be called before Ray is loaded."""
    require_extra("train", "ray")
    # In a notebook Ray, and tqdm for it, ask for ipywidgets, which nothing here needs.
    logging.getLogger("ray.widgets").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "IProgress not found")


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the Ray that this process has joined, or that RAY_ADDRESS names, or start one."""
    require_ray()
    with cluster.ray_session():
        yield

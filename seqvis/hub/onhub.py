"""What classes that open artifacts offer for the Hugging Face Hub."""

import tempfile
from collections.abc import Sized
from pathlib import Path
from typing import Any, Self

from seqvis.artifacts import Artifact
from seqvis.hub.download import hub_uri
from seqvis.hub.push import push


class OnHub:
    """Adds `from_pretrained` and `push_to_hub` to a class that opens an artifact."""

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None, **options: Any) -> Self:
        """Open what was published on the hub.

        Args:
            name: ORGANISATION/REPOSITORY; a private one needs HF_TOKEN or `hf auth login`.
            revision: a branch, tag or commit; by default the main branch as it is now.
            options: those of the class for opening a local one.

        Raises:
            ConfigError: the extra `hub` is not installed.
            ArtifactError: there is no such artifact, or it is of another kind, or altered.
            StorageError: the hub cannot be reached, and the cache does not have it.
        """
        return cls._open_from_hub(hub_uri(name, revision), **options)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Publish this on the hub, with a model card, and return the commit's address.

        `options` are those of `seqvis.hub.push.push`: private, revision, license, needs.
        """
        with tempfile.TemporaryDirectory() as temporary:
            facts = {"items": f"{len(self):,}"} if isinstance(self, Sized) else {}
            return push(self._as_artifact(Path(temporary)), name, facts=facts, **options)

    @classmethod
    def _open_from_hub(cls, uri: str, **options: Any) -> Self:
        raise NotImplementedError

    def _as_artifact(self, folder: Path) -> Artifact:
        """Return what is published; `folder` is free, and lasts until it is."""
        raise NotImplementedError

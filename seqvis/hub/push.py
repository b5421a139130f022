"""Publish an artifact on the Hugging Face Hub, with its model card."""

import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqvis import __version__
from seqvis.artifacts import MANIFEST, Artifact
from seqvis.checks import require_extra
from seqvis.errors import ConfigError, redacted
from seqvis.hub.card import NEEDS, model_card
from seqvis.hub.download import HUB, hub_errors, hub_uri

CARD = "README.md"


def push(
    artifact: Artifact,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license: str = "unknown",  # noqa: A002
    needs: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Publish an artifact in one commit and return the commit's address.

    Args:
        name: ORGANISATION/REPOSITORY, which is made if it is not there.
        private: make it visible to its owners only; one that is there stays as it is.
        revision: a branch, which is made if it is not there; by default the main one.
        license: the hub's name of a licence, such as "apache-2.0".
        needs: where the word vectors of a DeviSE model, or the model of a collection, are for those
            who load it, such as `hf://NAME`; recorded instead of where they are here.
        facts: further ones for the card.

    Raises:
        ConfigError: the extra `hub` or a token is missing, or `needs` is not needed.
        StorageError: the hub refuses, or cannot be reached.
    """
    require_extra("hub", "huggingface_hub")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not get_token():
        raise ConfigError(
            f"{name}: no token; set HF_TOKEN to one that may write, or run `hf auth login`"
        )
    published = _published(artifact, needs)
    card = model_card(published, name, license, facts or {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = artifact.local_copy(Path(temporary))
        manifest = json.loads((folder / MANIFEST).read_bytes()) | {"config": published.config}
        content = {
            MANIFEST: json.dumps(manifest, indent=2, ensure_ascii=False).encode(),
            CARD: card.encode(),
        }
        operations = [
            *(CommitOperationAdd(file, str(folder / file)) for file in artifact.files),
            *(CommitOperationAdd(file, data) for file, data in content.items()),
        ]
        api = HfApi(library_name="seqvis", library_version=__version__)
        with hub_errors(hub_uri(name, revision)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            api.create_repo(name, private=private, exist_ok=True)
            if revision:
                api.create_branch(name, branch=revision, exist_ok=True)
            message = f"Upload a {artifact.kind} by seqvis {__version__}"
            done = api.create_commit(name, operations, commit_message=message, revision=revision)
    return str(done.commit_url)


def _published(artifact: Artifact, needs: str | None) -> Artifact:
    """Return the artifact as it is published: without secrets, with `needs` in its settings."""
    config = _without_secrets(artifact.config)
    entry = NEEDS.get(artifact.kind)
    if needs and entry is None:
        raise ConfigError(f"--needs {needs}: a {artifact.kind} needs nothing else; leave it out")
    if needs and entry:
        if not needs.startswith(HUB):
            raise ConfigError(
                f"--needs {needs}: must be on the hub, as {HUB}ORGANISATION/REPOSITORY"
            )
        config[entry] = needs
    return replace(artifact, config=config)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_secrets(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(each) for each in value]
    return redacted(value) if isinstance(value, str) else value

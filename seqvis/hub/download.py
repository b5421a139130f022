"""Read artifacts from the Hugging Face Hub: `hf://NAME`, or `hf://NAME@REVISION`.

NAME is ORGANISATION/REPOSITORY, and REVISION a branch, a tag or a commit. The files come into the
cache of huggingface_hub, which serves them without a network, too. HF_TOKEN, HF_ENDPOINT and
HF_HOME mean what they mean to huggingface_hub.
"""

import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from seqvis.checks import require_extra
from seqvis.errors import ArtifactError, ConfigError, StorageError

HUB = "hf://"
_MANIFEST = "manifest.json"  # of every artifact


def hub_uri(name: str, revision: str | None = None) -> str:
    """Return the URI of a repository of the hub."""
    return f"{HUB}{name}@{revision}" if revision else f"{HUB}{name}"


def download(uri: str) -> Path:
    """Return the local folder of an artifact of the hub; load what is not there yet.

    Only the files that its manifest names are loaded, none of them is run, and they are checked
    when the artifact is opened. Raises ConfigError without the extra `hub` or if the name has not
    the right form, ArtifactError if there is no such artifact, StorageError if the hub cannot be
    reached and the cache does not have it.
    """
    require_extra("hub", "huggingface_hub")
    from huggingface_hub import hf_hub_download, snapshot_download

    name, _, given = uri.removeprefix(HUB).rstrip("/").partition("@")
    revision = given or None
    with hub_errors(uri):
        manifest = Path(hf_hub_download(name, _MANIFEST, revision=revision))
        wanted = [glob.escape(file) for file in (_MANIFEST, *_files(manifest))]
        commit = manifest.parent.name
        return Path(snapshot_download(name, revision=commit, allow_patterns=wanted))


def _files(manifest: Path) -> list[str]:
    """Return the names of the files, but those that lead out of the folder.

    Opening the artifact refuses these, and a manifest that is none.
    """
    try:
        names = json.loads(manifest.read_bytes())["files"]
    except (ValueError, KeyError, TypeError):
        return []
    paths = [PurePosixPath(str(name)) for name in names]
    return [str(path) for path in paths if not path.is_absolute() and ".." not in path.parts]


@contextmanager
def hub_errors(uri: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into an error that names `uri` and says what to do."""
    from huggingface_hub import constants, errors, get_token

    token = (
        "the token that is set may not read it"
        if get_token()
        else ("it is private, which needs HF_TOKEN or `hf auth login`")
    )
    try:
        yield
    except errors.HFValidationError as error:
        raise ConfigError(
            f"{uri}: is no name on the hub; needs the form {HUB}ORGANISATION/REPOSITORY, and "
            f"@REVISION after it for a certain one"
        ) from error
    except errors.GatedRepoError as error:
        raise ArtifactError(
            f"{uri}: is given only to those who accept its conditions; do so on its page, and "
            f"set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ArtifactError(
            f"{uri}: is not on {constants.ENDPOINT}, or {token}; check the name"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ArtifactError(f"{uri}: has no such branch, tag or commit") from error
    except errors.LocalEntryNotFoundError as error:
        raise StorageError(
            f"{uri}: {constants.ENDPOINT} cannot be reached, and the cache does not have it; check "
            f"the network, and whether HF_HUB_OFFLINE is set"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ArtifactError(
            f"{uri}: holds no {_MANIFEST}, so no job of seqvis has written it"
        ) from error
    except errors.HfHubHTTPError as error:
        status, said = error.response.status_code, error.server_message or ""
        if status in (401, 403):
            raise StorageError(
                f"{uri}: {constants.ENDPOINT} refuses ({status}); set HF_TOKEN to a token that may "
                f"do this, or run `hf auth login` {said}".rstrip()
            ) from error
        raise StorageError(f"{uri}: {constants.ENDPOINT} fails ({status} {said})") from error
    except errors.HTTPError as error:
        raise StorageError(f"{uri}: {constants.ENDPOINT} cannot be reached ({error})") from error
    except OSError as error:
        raise StorageError(f"{uri}: cannot be read or written ({error})") from error

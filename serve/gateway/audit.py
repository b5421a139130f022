"""The audit log: a line of JSON for each change, and for each request that a key does not allow.

Each replica writes its own file. Unlike Serve's own logs, which are buffered, a line is on its way
to the disk before the client has its answer.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from fastapi import Request

from seqvis.errors import redacted
from serve.common.http import as_api_error
from serve.common.settings import Application, Version

_FILE_BYTES = 100 << 20
_FORMER_FILES = 5

_log = logging.getLogger("seqvis.audit")


def write_to(file: Path) -> None:
    """From now on this process appends its lines to `file`, and nowhere else."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _log.handlers = [RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=_FORMER_FILES)]
    _log.setLevel(logging.INFO)
    _log.propagate = False


@contextmanager
def audited(action: str, key: str, request_id: str | None, **what: Any) -> Iterator[dict[str, Any]]:
    """Writes a line at the block's end: `done`, or the code of the error that ended it.

    Yields the line, so that the block can add what it learns. `unknown`: the request was
    cancelled, and the change may have been made.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": request_id,
        "key": key,
        "action": action,
        **what,
        "outcome": "unknown",
    }
    try:
        yield line
        line["outcome"] = "done"
    except Exception as error:
        line["outcome"] = as_api_error(error).code
        raise
    finally:
        # Written even if the change failed or its client left, since part of it may have been made.
        _log.info(json.dumps(line))


@contextmanager
def changing_models(
    application: Application, versions: Sequence[Version], key: str, request_id: str | None
) -> Iterator[None]:
    """`audited` for a change of models; paths are named once they have been checked."""
    names = [version.name for version in versions]
    with audited("models", key, request_id, application=application, versions=names) as line:
        yield
        line["paths"] = [redacted(version.path) for version in versions]


def asker(request: Request) -> tuple[str, str]:
    """The name of the key that asks, and the request's id."""
    return request.state.caller.name, request.state.request_id

"""Make an API key."""

import secrets
import sys
from functools import partial
from typing import Any

import yaml
from pydantic import Field, ValidationError

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.config import explain
from seqvis.errors import ConfigError
from serve.common.keys import Expiry, KeyHolder, KeyScope, sha256_of


class MakeKey(JobSettings):
    """Makes an API key. The key is the result's "key" and is stored nowhere: keep it. The YAML
    entry on standard error (and in the result) goes into the gateway's file of keys."""

    name: str
    """Who will hold the key; stands in logs and metrics."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Requests a minute that the key allows; unlimited if left out."""
    burst: float | None = Field(None, ge=1)
    """Requests that may come at once after a rest; by default what a minute allows."""
    scope: tuple[KeyScope, ...] = Field(("translate", "search"), min_length=1)
    """What the key allows: translate, search, write (add, replace and delete pictures), admin
    (change which models are live). What is given replaces the default."""
    expires: Expiry | None = None
    """From when on it is refused: a date or a time, such as 2027-01-31 (UTC); never if left out."""


def run(settings: MakeKey) -> dict[str, Any]:
    """Return the key, and the entry to paste into the file of keys."""
    key = f"sv_{secrets.token_urlsafe(32)}"
    try:
        holder = KeyHolder(
            sha256=sha256_of(key),
            scopes=settings.scope,
            **settings.model_dump(exclude={"scope"}),
        )
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, KeyHolder))) from error
    if holder.has_expired:
        raise ConfigError(f"--expires: {holder.expires} is over already; give a later time")
    entry = {"name": holder.name, "sha256": sha256_of(key)} | holder.model_dump(
        exclude_defaults=True, exclude={"name", "sha256"}
    )
    text = yaml.safe_dump([entry], sort_keys=False, default_flow_style=None)
    sys.stderr.write(text)
    return {"name": holder.name, "key": key, "entry": text}


main = partial(run_job, MakeKey, run)

if __name__ == "__main__":
    leave(main())

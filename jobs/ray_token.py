"""Ray's token: a password for everything a Ray can do, in a file that its owner alone may read.

    python -m jobs.ray_token

Ray itself would write the file for everybody to read. What would surprise a reader: a local Ray
asks for the token too, so the file is made, or put right, when one is started.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from seqvis.cli.job import leave, run_job
from seqvis.config import JobSettings
from seqvis.errors import ConfigError

OTHERS = stat.S_IRWXG | stat.S_IRWXO


class RayToken(JobSettings):
    """Makes Ray's token where there is none, and sees to it that nobody else may read it.

    The file is ~/.ray/auth_token, or what RAY_AUTH_TOKEN_PATH names.
    """


def keep_token_private() -> None:
    """For who starts a Ray: that is `token_file`, unless Ray is told to do without the file."""
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode == "token" and not os.environ.get("RAY_AUTH_TOKEN"):
        token_file()


def token_file() -> Path:
    """The file of the token, which its owner alone may read; made where Ray would make it.

    Raises ConfigError if it cannot be made so.
    """
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    try:
        if not given and not path.exists():
            _make(path)
        if path.stat().st_mode & OTHERS:
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    except OSError as error:
        raise ConfigError(
            f"{path}: holds Ray's token, so it must be a file that you alone may read, and it "
            f"cannot be made so ({error.strerror}); name another by RAY_AUTH_TOKEN_PATH"
        ) from error
    return path


def _make(path: Path) -> None:
    """Writes a new token. The file appears whole, and does not replace another process's."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    try:
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()


def run(settings: RayToken) -> dict[str, str]:
    """Makes the token; returns the name of its file."""
    return {"file": str(token_file())}


def main(arguments: Sequence[str] | None = None) -> int:
    return run_job(RayToken, run, arguments)


if __name__ == "__main__":
    leave(main())

"""Ray's token: a password for everything a Ray can do, in a file that its owner alone may read.

    python -m jobs.ray_token

Ray itself would write the file for everybody to read. A Ray that a job starts on this machine asks
for the token, too, so the job makes the file, or puts it right.
"""

from collections.abc import Sequence

from seqvis.cli.job import leave, run_job
from seqvis.cluster import token_file
from seqvis.config import JobSettings


class RayToken(JobSettings):
    """Makes Ray's token where there is none, and sees to it that nobody else may read it.

    The file is ~/.ray/auth_token, or what RAY_AUTH_TOKEN_PATH names.
    """


def run(settings: RayToken) -> dict[str, str]:
    """Makes the token; returns the name of its file."""
    return {"file": str(token_file())}


def main(arguments: Sequence[str] | None = None) -> int:
    return run_job(RayToken, run, arguments)


if __name__ == "__main__":
    leave(main())

"""Make the token of a Ray cluster.

It is the password for the whole cluster, in a file that only its owner may read. Ray itself would
make the file readable for everybody. A Ray that a job starts on this machine needs the token too,
so the job creates the file or corrects its permissions.
"""

from functools import partial

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.cluster import token_file


class RayToken(JobSettings):
    """Makes Ray's token where there is none, and sees to it that nobody else may read it.

    The file is ~/.ray/auth_token, or what RAY_AUTH_TOKEN_PATH names.
    """


def run(settings: RayToken) -> dict[str, str]:
    """Make the token; return the name of its file."""
    return {"file": str(token_file())}


main = partial(run_job, RayToken, run)

if __name__ == "__main__":
    leave(main())

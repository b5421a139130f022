"""Print the environment that servers' nodes need.

Ray's processes need it for servers and jobs, on every node from their start:

    eval "$(seqvis environment)" && ray start …

`seqvis serve` sets it for the Ray that it starts, and the image has it (Dockerfile).
"""

import os
import shlex
from functools import partial
from pathlib import Path

from seqvis.checks import require_extra
from seqvis.cli.job import JobSettings, leave, run_job
from serve import NEEDS

ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:middlewares",
    # A request crosses three processes; without these it also crosses two threads in each.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 << 20),  # by default 4 MB: a photograph
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "100",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead proxy is replaced in seconds, not 30
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "3",  # and a frozen one
    # A replica that hangs is killed, which breaks its calls, so that they are sent to another.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # A replica that has been silent for so long is probed before it gets a request.
    "RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S": "0.5",
    # Ray lowers its workers' priority; a page should answer while something else computes.
    "RAY_worker_niceness": "0",
    "RAY_JOB_STOP_WAIT_TIME_S": "60",  # a stopped job may finish writing; by default it has 3 s
    # By default each of a replica's forty threads keeps the memory that it has freed for itself.
    "MALLOC_ARENA_MAX": "1",
}


def server_environment(folder: Path | None = None) -> dict[str, str]:
    """Return the whole environment, as this machine needs it.

    `folder`: where HAProxy keeps its files, for a server of this machine alone.
    """
    require_extra("serve", *NEEDS)
    from serve.proxy import haproxy  # loads Starlette

    return {**ENVIRONMENT, **haproxy.environment(folder)}


class Environment(JobSettings):
    """Prints the environment that Ray's processes need, as commands of a shell.

    What is set already stays as it is.
    """


def run(settings: Environment) -> None:
    """Print a line for each variable that is not set."""
    for name, value in server_environment().items():
        if name not in os.environ:
            print(f"export {name}={shlex.quote(value)}")


main = partial(run_job, Environment, run)

if __name__ == "__main__":
    leave(main())

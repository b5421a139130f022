"""The Ray cluster that a job runs on: join or start it, its token, and its resources.

Under `ray job submit`, with RAY_ADDRESS set, or with an address given, a job joins that Ray and
leaves it running. So does a job in a process that has joined one already, as in tests. Otherwise a
local Ray is started, without a dashboard and on the loopback interface only, and stopped at the
end. Importing Ray takes a second, and not everybody has it, so it is imported where it is used.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import stat
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from seqvis.checks import require_extra
from seqvis.errors import ConfigError, TrainingError
from seqvis.ray_internals import node_on_loopback, standing_address

# What starts or joins a Ray when it is entered. Whoever takes one enters it once everything that a
# user gave has been checked, since starting takes ten seconds.
Session = Callable[[], AbstractContextManager[None]]
Progress = Callable[[str, int, int], None]  # (stage, done, total)

OTHERS = stat.S_IRWXG | stat.S_IRWXO  # that may read a file
OBJECT_STORE_BYTES = 1 << 30  # bounds the memory of a local Ray; more is spilled to disk


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Show nothing: a `Progress` for callers without a console."""


def amount(resource: str) -> int:
    """Return how much of a resource, such as "CPU", all nodes have now, in whole units."""
    require_extra("train", "ray")
    import ray

    return int(ray.cluster_resources().get(resource, 0))


def can_grow() -> bool:
    """Tell whether nodes may be added, so that work that does not fit is waited for, not refused.

    A cluster with an autoscaler has nothing but its head when the first job comes, so "not there"
    must not be taken for "never". Ray does not say whether there is an autoscaler. A head without
    processors can do no work itself, so it is the sign of one, as are several nodes.
    """
    import ray

    return len(ray.nodes()) > 1 or amount("CPU") == 0


@contextmanager
def ray_session(num_cpus: int | None = None, address: str | None = None) -> Iterator[None]:
    """Start or join Ray for the length of the block.

    Args:
        num_cpus: processors of a Ray that is started; None: all.
        address: of a Ray to join, HOST:PORT, or "auto" for the one that stands on this machine.
            RAY_ADDRESS says what None and "auto" mean, if it is set.

    Starting Ray replaces the process's SIGTERM handler, and ending it takes it away; both times it
    is put back, so that a stopped job still cleans up after itself.

    Raises ConfigError if Ray is not installed or cannot be joined, TrainingError if it does not
    start.
    """
    require_extra("train", "ray")
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    named = os.environ.get("RAY_ADDRESS")
    if address and not (address == "auto" and named):
        _connect(address, f"--address {address}")
    elif named:
        _connect(named, f"RAY_ADDRESS={named}")
    else:
        _start_here(num_cpus)
    _handle_sigterm(on_sigterm)
    with _last_word() if address or named else nullcontext():
        try:
            yield
        except Exception:
            ray.shutdown()
            raise
        # After an interruption it stays as it is until the process ends: see `cli.job.leave`.
        ray.shutdown()
    _handle_sigterm(on_sigterm)


def _handle_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _last_word() -> Iterator[None]:
    """Say so if this process is ended within the block, as Ray does with it when it ends itself.

    Nothing in this process could: Ray's library leaves it at once. So a shell waits beside it, and
    speaks if its input ends without a line.
    """
    text = (
        "error: Ray, or this job, was ended; earlier results are intact, the same command goes on"
    )
    waiting = ["sh", "-c", 'read -r line || echo "$0" >&2', text]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, start_new_session=True) as shell:
        try:
            yield
        finally:
            shell.communicate(b"\n")


def _start_here(num_cpus: int | None) -> None:
    """Start a Ray on this machine.

    Raises TrainingError if its processes do not come up, ConfigError if others could read its
    token.
    """
    import ray

    keep_token_private()
    try:
        with _on_loopback():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
    except Exception as error:  # Ray names no class of its own for this
        ray.shutdown()
        raise TrainingError(
            f"Ray did not start on this machine ({error}); it may be short of memory, of shared "
            f"memory or of time: run the same command again when less else is running"
        ) from error


def _connect(address: str, given: str) -> None:
    """Join a running Ray; `given` says in messages how the user named it.

    Raises ConfigError if it does not answer or refuses.
    """
    import ray

    remedy = "start it, or leave this out to run on this machine alone"
    chosen = standing_address() if address == "auto" else address
    if chosen is None:
        raise ConfigError(f"{given}: no Ray was started on this machine; `make ray` starts one")
    host, _, port = chosen.rpartition(":")
    on_loopback = False
    if host and port.isdigit() and "/" not in host:  # Ray itself would try for many minutes
        if refusal := _refusal(host, int(port)):
            raise ConfigError(f"{given}: no Ray answers ({refusal}); {remedy}") from refusal
        local = host in ("127.0.0.1", "localhost")
        on_loopback = local and bool(_refusal(ray.util.get_node_ip_address(), int(port)))
    try:
        with _on_loopback() if on_loopback else nullcontext():
            # For "auto", but for no other address, Ray finds out whether there is a token.
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{given}: this Ray cannot be joined ({reason}); it must be of the same version of Ray "
            f"and Python; set RAY_AUTH_MODE=token if it asks for a token; else {remedy}"
        ) from error


def _refusal(host: str, port: int) -> OSError | None:
    """Return why nobody answers at this port, None if somebody does."""
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        return error
    return None


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Start or join in the block a Ray at 127.0.0.1, to which no other node can be added."""
    # Nobody gives notice that its node will be taken away; each training would watch for it.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    with node_on_loopback():
        yield


def keep_token_private() -> None:
    """Call `token_file`, unless Ray is configured to do without the file."""
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode == "token" and not os.environ.get("RAY_AUTH_TOKEN"):
        token_file()


def token_file() -> Path:
    """Return the file of the token, which its owner alone may read; made where Ray would make it.

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
    """Write a new token. The file appears whole and never replaces another process's."""
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


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Silence Ray Data's bars and reports: the job shows its own progress."""
    require_extra("train", "ray")
    import ray

    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = (context.enable_progress_bars, context.print_on_execution_start, logger.level)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start, level = before
        logger.setLevel(level)

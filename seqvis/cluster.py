"""The Ray cluster that a job runs on: join or start it, its token, and its resources.

Under `ray job submit`, or with RAY_ADDRESS set, a job uses that cluster. A Ray that is already
running in the process (in a test, say) is used and left running. Otherwise a local one is started,
without a dashboard and on the loopback interface only, and stopped at the end.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import ray

from seqvis.errors import ConfigError, TrainingError
from seqvis.ray_internals import node_on_loopback

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
    return int(ray.cluster_resources().get(resource, 0))


def can_grow() -> bool:
    """Tell whether nodes may be added, so that work that does not fit is waited for, not refused.

    A cluster with an autoscaler has nothing but its head when the first job comes, so "not there"
    must not be taken for "never". Ray does not say whether there is an autoscaler. A head without
    processors can do no work itself, so it is the sign of one, as are several nodes.
    """
    return len(ray.nodes()) > 1 or amount("CPU") == 0


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Start or join Ray for the length of the block; a local Ray gets `num_cpus` (None: all).

    Starting Ray replaces the process's SIGTERM handler; it is put back, so that a stopped job still
    cleans up after itself.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if os.environ.get("RAY_ADDRESS"):
        _connect(os.environ["RAY_ADDRESS"])
    else:
        _start_here(num_cpus)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except Exception:
        ray.shutdown()
        raise
    # After an interruption it stays as it is until the process ends: see runner.leave.
    ray.shutdown()


def _start_here(num_cpus: int | None) -> None:
    """Start a Ray on this machine.

    Raises TrainingError if its processes do not come up, ConfigError if others could read its
    token.
    """
    keep_token_private()
    # Nobody gives notice that this node will be taken away; each training would watch for it.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        with node_on_loopback():
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


def _connect(address: str) -> None:
    """Join a running cluster. Raises ConfigError if it does not answer or refuses."""
    remedy = "start it, or unset RAY_ADDRESS to run on this machine alone"
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:  # Ray itself would try for many minutes
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(
                f"RAY_ADDRESS={address}: no Ray answers ({error}); {remedy}"
            ) from error
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: this Ray cluster cannot be joined; set RAY_AUTH_MODE=token "
            f"if it asks for a token; else {remedy}"
        ) from error


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

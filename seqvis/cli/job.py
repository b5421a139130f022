"""The main function of every job: settings in, one JSON line out, and one clear message per error.

A job is a module with a `JobSettings` and a function `run(settings)` that returns its result.
`run_job` is its main: progress and logs go to standard error, and the result is the last line of
standard output. Exit codes: 0 done, 1 a failure that the message explains, 2 wrong flags or keys,
130 interrupted (Ctrl-C), 143 asked to stop (SIGTERM, as `ray job stop` sends).
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

from seqvis.config import JobSettings
from seqvis.errors import ConfigError, SeqvisError, redacted

S = TypeVar("S", bound=JobSettings)


_INTERRUPTED = (130, 143)


class _Terminated(BaseException):
    """SIGTERM was received."""


def run_job(
    settings_class: type[S],
    run: Callable[[S], Mapping[str, Any] | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs a job with the given flags (default: the process's own) and returns its exit code.

    A result of None prints nothing: the job has written its own output. Passwords in URIs are
    printed nowhere.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    previous = _raise_on_sigterm()
    try:
        settings = settings_class.from_command_line(
            sys.argv[1:] if arguments is None else arguments
        )
        result = run(settings)
        if result is not None:
            print(redacted(json.dumps(result, ensure_ascii=False)), flush=True)
        return 0
    except ConfigError as error:
        return _complain(error, 2)
    except SeqvisError as error:
        return _complain(error, 1)
    except (KeyboardInterrupt, _Terminated, SystemError) as error:
        # A signal that arrives while Ray's C code runs is the cause of a SystemError.
        signalled = error.__cause__ if isinstance(error, SystemError) else error
        earlier = "earlier results are intact, the same command goes on"
        if isinstance(signalled, KeyboardInterrupt):
            return _complain(f"interrupted; {earlier}", 130)
        if isinstance(signalled, _Terminated):
            return _complain(f"stopped; {earlier}", 143)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


@contextmanager
def ray_on_demand() -> Iterator[None]:
    """`ray_session` for jobs that may need no Ray: it is imported when the block begins."""
    from seqvis.cluster import ray_session

    with ray_session():
        yield


def leave(code: int) -> NoReturn:
    """Ends the process of a job with its exit code.

    One that was interrupted ends at once: Ray Train's thread may still be inside Ray, which crashes
    if it is taken down under it. Ray's own processes end with this one.
    """
    if code in _INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _complain(message: object, code: int) -> int:
    for line in str(message).splitlines():
        print(f"error: {line}", file=sys.stderr, flush=True)
    return code


def _raise_on_sigterm() -> Any:
    def handler(signum: int, frame: FrameType | None) -> None:
        raise _Terminated

    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not the main thread: the caller handles signals
        return None

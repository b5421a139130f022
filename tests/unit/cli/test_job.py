"""The main of every job: how it ends when a signal stops it."""

import signal
from collections.abc import Iterator

import pytest

from seqvis.cli.job import JobSettings, run_job


class Nothing(JobSettings):
    """A job that needs no settings."""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, as in a terminal; what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("inside_ray", [False, True])
def test_a_signal_ends_a_job_with_its_exit_code_and_one_line(
    number: signal.Signals, code: int, inside_ray: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(settings: Nothing) -> None:
        try:
            signal.raise_signal(number)
        except BaseException as error:
            if inside_ray:  # Ray's C code wraps what the handler raises
                raise SystemError("returned a result with an exception set") from error
            raise

    assert run_job(Nothing, stopped, []) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_another_system_error_is_not_hidden() -> None:
    def broken(settings: Nothing) -> None:
        raise SystemError("bad argument to internal function")

    with pytest.raises(SystemError):
        run_job(Nothing, broken, [])

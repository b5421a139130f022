"""What a server prints when Ctrl-C ends it: real failures, and nothing that only looks like one."""

from contextlib import nullcontext

import pytest
import ray.serve
from ray._private import worker

from seqvis.ray_internals import hide_controllers_end
from serve import app

ENDED = (
    "Task ServeController.graceful_shutdown failed. There are infinite retries remaining, so the "
    "task will be retried. Error: The actor is dead because it was killed by `ray.kill`."
)


def report(line: str) -> None:
    """As Ray's thread does for what its processes report."""
    worker.print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, False)


def test_the_controllers_end_is_not_reported_as_a_failure(capsys) -> None:
    others = ["Task Replica.handle failed.", "A worker died.", "graceful shutdown took 9 s"]
    before = worker.print_to_stdstream
    with hide_controllers_end():
        for line in (ENDED, *others):
            report(line)
    shown = capsys.readouterr().out
    assert "ServeController" not in shown
    for line in others:
        assert line in shown
    assert worker.print_to_stdstream is before


def test_ray_still_prints_its_reports_by_the_function_that_is_replaced() -> None:
    assert "print_to_stdstream" in worker.listen_error_messages.__code__.co_names


def test_everything_that_is_served_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Also after Serve's end, until Ray's own: the line may come late."""

    class Session:
        def __enter__(self) -> None:
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None: ...

    def session(num_cpus: int) -> Session:
        report(ENDED)
        return Session()

    monkeypatch.setattr(app, "ray_session", session)
    with pytest.raises(KeyboardInterrupt), app._served(app.Serve(translator="t")):
        pass
    assert capsys.readouterr().out == ""


def test_a_server_that_is_stopped_while_it_starts_drains_before_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its gateway may have taken requests already when the last of it starts."""
    done: list[str] = []

    def interrupted(targets: object) -> None:
        raise KeyboardInterrupt

    def drained(seconds: float) -> None:
        done.append(f"drain {seconds:g}")

    monkeypatch.setattr(app, "ray_session", lambda num_cpus: nullcontext())
    monkeypatch.setattr(
        app.Store, "announce_draining", lambda self, draining: done.append(f"ends: {draining}")
    )
    monkeypatch.setattr(app, "drain", drained)
    monkeypatch.setattr(ray.serve, "start", lambda **_: done.append("start"))
    monkeypatch.setattr(ray.serve, "shutdown", lambda: done.append("shutdown"))
    monkeypatch.setattr(app, "_start", interrupted)
    settings = app.Serve(translator="t", port=8001, drain_s=7)
    with pytest.raises(KeyboardInterrupt), app._served(settings):
        pass
    assert done == ["ends: False", "start", "drain 7", "shutdown"]

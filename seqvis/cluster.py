"""What the Ray cluster has, whether it may get more, and whose it is: needs an initialised Ray.

What would surprise a reader: a cluster with an autoscaler has nothing but its head when the first
job comes, so "not there" must not be taken for "never". Ray does not say whether there is an
autoscaler. A head without processors can do no work itself, so it is the sign of one, as are
several nodes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import ray

# What starts or joins a Ray when it is entered. Whoever takes one enters it once everything that a
# user gave has been checked, since starting takes ten seconds.
Session = Callable[[], AbstractContextManager[None]]


def amount(resource: str) -> int:
    """How much of "CPU", "GPU" or another resource all nodes have now, whole units."""
    return int(ray.cluster_resources().get(resource, 0))


def can_grow() -> bool:
    """Whether nodes may be added, so that work that does not fit is waited for, not refused."""
    return len(ray.nodes()) > 1 or amount("CPU") == 0


def ends_with_this_process() -> bool:
    """Whether this process started the Ray, as a job does without a cluster."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.is_head())

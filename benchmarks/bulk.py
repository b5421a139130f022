"""Many pictures and many searches in one request beside one in each.

    python -m benchmarks.bulk --collection runs/collection

Both are sent in turn to a server of this machine, by one client that waits for each answer. The
pictures are added to the collection and deleted again. Prints medians of the rounds, in ms.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from seqvis.client import Client, NewPicture, Search
from serve.app import free_port
from serve.testing.server import local_config, run_config

PICTURES, SEARCHES = 64, 100


def measure(client: Client, rounds: int) -> dict[str, float]:
    """Return the medians of the rounds; one more comes before them, to warm up."""
    draw = np.random.default_rng(0)
    pictures = [NewPicture(_jpeg(draw), f"bulk/{number}") for number in range(PICTURES)]
    searches = [Search(id=picture.id) for picture in islice(client.scroll(), SEARCHES)]
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for picture in pictures:
            client.add(picture.content, picture.id)
        added = time.perf_counter()
        results = list(client.add_many(pictures, together=PICTURES))
        added_together = time.perf_counter()
        for search in searches:
            client.search_like(str(search.id))
        searched = time.perf_counter()
        client.search_many(searches)
        ended = time.perf_counter()
        assert [result.status for result in results] == ["replaced"] * PICTURES
        seconds[f"{PICTURES} pictures, a request each"].append(added - began)
        seconds[f"{PICTURES} pictures in one"].append(added_together - added)
        seconds[f"{len(searches)} searches, a request each"].append(searched - added_together)
        seconds[f"{len(searches)} searches in one"].append(ended - searched)
    for picture in pictures:
        client.delete(str(picture.id))
    return {name: round(1000 * statistics.median(each[1:]), 1) for name, each in seconds.items()}


def _jpeg(draw: np.random.Generator) -> bytes:
    """Return a picture of 640 x 480 pixels that is as smooth as a photograph."""
    small = draw.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((640, 480)).save(stream, "JPEG")
    return stream.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args(arguments)
    config = local_config(None, flags.collection, free_port())
    with (
        tempfile.TemporaryDirectory() as logs,
        run_config(config, Path(logs)) as server,
        Client(server.address) as client,
    ):
        print(json.dumps(measure(client, flags.rounds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

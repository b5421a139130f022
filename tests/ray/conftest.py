"""Work of Ray Data done in the test's own process, where other processes make no difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

# The main process of `pytest --numprocesses` reads this file too; it needs none of them.
if TYPE_CHECKING:
    import pyarrow as pa


class Here:
    """Stands for a dataset of Ray Data."""

    def __init__(self, blocks: Iterable[pa.Table]):
        self._blocks = blocks

    def map_batches(
        self,
        work: Any,
        fn_constructor_args: tuple[Any, ...] = (),
        batch_size: int | None = None,
        **options: Any,
    ) -> Here:
        make = work(*fn_constructor_args) if isinstance(work, type) else work
        return Here(self._made(make, batch_size))

    def _made(self, make: Any, batch_size: int | None) -> Iterator[pa.Table]:
        for batch in self.iter_batches(batch_size):
            made = make(batch)
            yield from made if isinstance(made, Iterator) else [made]

    def iter_batches(self, batch_size: int | None, **options: Any) -> Iterator[pa.Table]:
        import pyarrow as pa

        if batch_size is None:
            yield from self._blocks
        else:
            table = pa.concat_tables(self._blocks)
            for first in range(0, table.num_rows, batch_size):
                yield table.slice(first, batch_size)


@pytest.fixture
def no_processes(ray_cluster: None) -> Iterator[pytest.MonkeyPatch]:
    """Start no processes for tasks and actors of Ray Data: each imports for seconds."""
    import pyarrow as pa
    import ray.data
    import torch

    def from_items(items: Sequence[dict[str, Any]], **options: Any) -> Here:
        return Here(pa.Table.from_pylist([item]) for item in items)

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.data, "from_arrow", Here)
        patch.setattr(ray.data, "from_items", from_items)
        yield patch
    torch.set_num_threads(threads)

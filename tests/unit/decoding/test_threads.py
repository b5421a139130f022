"""Pieces of work side by side: each with its part of PyTorch's threads."""

import threading
from collections.abc import Iterator

import pytest
import torch

from seqvis.decoding.search import map_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """PyTorch has two threads before, and after whatever happens."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(before)
    assert left == 2


def test_pieces_run_at_once_on_a_thread_each_and_come_back_in_order() -> None:
    together = threading.Barrier(2, timeout=20)

    def work(piece: int) -> tuple[int, int]:
        together.wait()
        return piece, torch.get_num_threads()

    assert map_threads(work, range(6), 2) == [(piece, 1) for piece in range(6)]


def test_pieces_share_all_threads() -> None:
    torch.set_num_threads(4)
    try:
        assert map_threads(lambda piece: torch.get_num_threads(), range(2), 2) == [2, 2]
    finally:
        torch.set_num_threads(2)


@pytest.mark.parametrize(("pieces", "threads"), [(1, 2), (3, 1), (0, 2)])
def test_alone_a_piece_has_all_threads(pieces: int, threads: int) -> None:
    def work(piece: int) -> tuple[int, int]:
        assert threading.current_thread() is threading.main_thread()
        return piece, torch.get_num_threads()

    assert map_threads(work, range(pieces), threads) == [(piece, 2) for piece in range(pieces)]


@pytest.mark.parametrize(("pieces", "threads"), [(1, 2), (3, 1), (4, 2)])
def test_a_small_piece_has_one_thread(pieces: int, threads: int) -> None:
    counts = map_threads(lambda piece: torch.get_num_threads(), range(pieces), threads, small=True)
    assert counts == [1] * pieces


def test_a_second_caller_goes_on_meanwhile_by_itself() -> None:
    inner = map_threads(lambda piece: map_threads(lambda deep: deep * 10, range(3), 2), [0, 1], 2)
    assert inner == [[0, 10, 20]] * 2


def test_an_error_of_a_piece_is_raised() -> None:
    def work(piece: int) -> int:
        if piece == 1:
            raise ValueError("piece 1")
        return piece

    with pytest.raises(ValueError, match="piece 1"):
        map_threads(work, range(4), 2)

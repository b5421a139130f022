"""Operations that NumPy computes for PyTorch are PyTorch's."""

import pytest
import torch

from seqvis.seq2seq.gru import tanh_


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_the_tangent_is_pytorchs_in_place_also_of_a_part_of_the_columns(kind: torch.dtype) -> None:
    whole = torch.linspace(-20, 20, 3000).view(100, 30).to(kind)
    untouched, part = whole.clone(), whole[:, 7:18]
    assert tanh_(part) is part
    tolerance = {torch.bfloat16: 0.008, torch.float32: 1e-6, torch.float64: 1e-15}[kind]
    torch.testing.assert_close(part, untouched[:, 7:18].tanh(), rtol=tolerance, atol=tolerance)
    assert torch.equal(whole[:, :7], untouched[:, :7])
    assert torch.equal(whole[:, 18:], untouched[:, 18:])


def test_a_number_has_the_same_tangent_wherever_it_stands() -> None:
    torch.manual_seed(0)
    numbers = torch.randn(1000) * 3
    together = tanh_(numbers.clone())
    for begin, end in ((0, 1), (3, 20), (17, 999)):
        assert torch.equal(tanh_(numbers[begin:end].clone()), together[begin:end])

"""Activations: a row's numbers are the same, bit for bit, wherever the row stands."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.layers import activations
from model.layers.activations import ACTIVATIONS, find_activation


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(ACTIVATIONS)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    width=st.sampled_from([5, 48, 64, 688]),
    num_rows=st.integers(1, 120),
    seed=st.integers(0, 9),
)
@torch.inference_mode()
def test_a_rows_bits_do_not_depend_on_its_place(
    name: str, dtype: torch.dtype, width: int, num_rows: int, seed: int
) -> None:
    activate = find_activation(name)
    x = (3 * torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed))).to(dtype)
    whole = activate(x)
    torch.testing.assert_close(whole, ACTIVATIONS[name](x))
    assert torch.equal(whole, torch.cat([activate(row[None]) for row in x]))


@torch.inference_mode()
def test_numbers_are_handed_over_in_whole_vectors() -> None:
    def ends_alone(x: torch.Tensor) -> torch.Tensor:
        """What torch does, made plain: numbers behind the last whole vector are another function's."""
        flat = x.flatten()
        return torch.cat((flat[: len(flat) // 64 * 64], flat[len(flat) // 64 * 64 :] + 1)).view(x.shape)

    x = torch.zeros(7, 40)
    assert ends_alone(x).any()
    assert not activations.each_row_alike(ends_alone, x).any()
    assert not activations.each_row_alike(ends_alone, x[:, :3]).any()


def test_training_has_plain_functions() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    assert torch.equal(find_activation("gelu")(x), torch.nn.functional.gelu(x))

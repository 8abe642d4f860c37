"""Tensors in large pages: apart from each other, aligned, and alive as long as anybody has them."""

import gc

import pytest
import torch

from model.layers import large_pages
from model.layers.large_pages import LargePages


def test_tensors_lie_apart_each_on_a_border_and_outlive_their_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one does not fit behind the others, or into a mapping of the usual size."""
    monkeypatch.setattr(large_pages, "_MAPPING", 5000)
    pages = LargePages()
    shapes = [(3, 5), (1,), (1000, 4), (7,), (2, 3, 5)]
    tensors = [pages.empty(shape, torch.float32) for shape in shapes]
    numbers = pages.empty((9,), torch.uint8)
    del pages
    gc.collect()
    numbers.fill_(255)
    for i, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        assert tensor.shape == shape
        assert tensor.data_ptr() % 64 == 0
        assert not tensor.any()
        tensor.fill_(i + 1)
    for i, tensor in enumerate(tensors):
        assert bool((tensor == i + 1).all())
    assert bool((numbers == 255).all())
    assert tensors[1].data_ptr() - tensors[0].data_ptr() == 64

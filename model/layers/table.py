"""A table of vectors by id."""

from torch import nn


class Table(nn.Embedding):
    """`nn.Embedding` whose weights, like `Linear`'s, are drawn by whoever builds the model."""

    def reset_parameters(self) -> None:
        """Nothing; see `Linear.reset_parameters`."""

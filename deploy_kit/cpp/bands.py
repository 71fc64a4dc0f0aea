"""The order of a chain of convolutions: in bands of rows, so that what lies between stays in the cache."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy_kit.cpp.program import Convolution


@dataclass(frozen=True)
class Bands:
    """Bands of a chain's output, each a row of it where bands share no work, else one band with all rows.

    Attributes:
        count: how many bands.
        rows: rows of each layer's output in a band.
        columns: columns of each layer's output; those that nothing reads are not computed.
        image_rows: rows by which the image moves from band to band.
        out_rows: rows of the chain's whole output.
    """

    count: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    image_rows: int
    out_rows: int


def bands_of(shape: tuple[int, int], layers: Sequence[Convolution]) -> Bands:
    """Return the bands of a chain of convolutions.

    Args:
        shape: (rows, columns) of the image.
        layers: in order.
    """
    out_rows, out_columns = shape
    for layer in layers:
        kernel_rows, kernel_columns = layer.weight.shape[2:]
        out_rows = (out_rows - kernel_rows) // layer.stride[0] + 1
        out_columns = (out_columns - kernel_columns) // layer.stride[1] + 1
    rows, moved = _rows(layers, 1)
    # A row that two bands need would be computed twice.
    shared = any(need > step for need, step in zip(rows[:-1], moved[1:-1], strict=True))
    count = 1 if shared else out_rows
    if shared:
        rows, moved = _rows(layers, out_rows)
    columns = [out_columns]
    for layer in reversed(layers[1:]):
        columns.append((columns[-1] - 1) * layer.stride[1] + layer.weight.shape[3])
    return Bands(count, tuple(rows), tuple(columns[::-1]), moved[0], out_rows)


def _rows(layers: Sequence[Convolution], wanted: int) -> tuple[list[int], list[int]]:
    """Return the rows of each layer's output for so many of the last, and by how many image and outputs move a row."""
    rows, moved = [wanted], [1]
    for layer in reversed(layers):
        rows.append((rows[-1] - 1) * layer.stride[0] + layer.weight.shape[2])
        moved.append(moved[-1] * layer.stride[0])
    return rows[-2::-1], moved[::-1]

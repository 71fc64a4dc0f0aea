"""How the weights of large matrices are stored: as float32, as float16, or as int8 with a scale for each output."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.variants import LARGE
from deploy_kit.cpp.program import Convolutions, Dense, Float32, Program
from deploy_kit.errors import OptionError

_LARGEST_HALF = float(np.finfo(np.float16).max)
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


class Storage(StrEnum):
    """Form of a large matrix's weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


FORMATS = {"cpp": Storage.FLOAT32, "cpp-fp16": Storage.FLOAT16, "cpp-int8": Storage.INT8}
"""Form by the format that export is asked for."""


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix as it is stored.

    Attributes:
        values: (outputs, inputs) float32, float16 or int8.
        scale: (outputs,) what the numbers of each output stand for a multiple of; None for 1.
    """

    values: npt.NDArray[Any]
    scale: Float32 | None = None

    @property
    def weight(self) -> npt.NDArray[np.float64]:
        """The weights that the stored numbers stand for."""
        values = self.values.astype(np.float64)
        return values if self.scale is None else values * self.scale.astype(np.float64)[:, None]


def stored_matrices(program: Program, storage: Storage) -> dict[str, StoredMatrix]:
    """Return the matrices of a program as they are stored, by the name of the product.

    Narrow are those that hold `LARGE` of all weights: smaller ones, among them the state's, cost accuracy and save
    little. With the actor's layers in int8 too the reference policy's action was off 25 times as far.

    Raises:
        OptionError: a weight is too large for float16.
    """
    steps = (*program.encoder, *program.heads)
    convolutions = [layer.weight.size for step in steps if isinstance(step, Convolutions) for layer in step.layers]
    products = [product for step in steps if isinstance(step, Dense) for product in step.products]
    total = sum(convolutions) + sum(product.weight.size for product in products)
    return {
        product.name: _narrow(product.name, product.weight, storage)
        if product.weight.size >= LARGE * total
        else StoredMatrix(product.weight)
        for product in products
    }


def _narrow(name: str, weight: Float32, storage: Storage) -> StoredMatrix:
    """Return a large matrix as it is stored.

    float16 is rounded to nearest, ties to even. int8 has one scale for each output, the largest size among its weights
    over 127, and each weight over it rounded to nearest, ties to even. Every operation is one that IEEE 754 rounds
    correctly, so that all machines give the same bits.
    """
    if storage is Storage.FLOAT32:
        return StoredMatrix(weight)
    largest = np.abs(weight).max(axis=1).astype(np.float64)
    if storage is Storage.FLOAT16:
        if not largest.max() <= _LARGEST_HALF:
            raise OptionError(f"--format cpp-fp16: {name} holds {largest.max():g}, beyond float16; use --format cpp")
        return StoredMatrix(weight.astype(np.float16))
    scale = largest / 127
    # Weights so small that their scale would be subnormal are zeros: some computers flush such numbers.
    scale = np.where(scale >= _SMALLEST_NORMAL, scale, 1.0).astype(np.float32)
    values = np.clip(np.rint(weight.astype(np.float64) / scale.astype(np.float64)[:, None]), -127, 127)
    return StoredMatrix(values.astype(np.int8), scale)

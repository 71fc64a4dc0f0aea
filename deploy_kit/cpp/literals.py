"""Numbers and arrays as C++ literals: hexadecimal, so that every bit is said."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

A_LINE = 8
"""float32 numbers in a line of an array."""


def float_literal(value: np.floating | float) -> str:
    """Return a float32 as a literal."""
    return _hexadecimal(float(value), "f")


def double_literal(value: float) -> str:
    """Return a float64 as a literal; infinities as an expression."""
    value = float(value)
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}kInfinity"
    return _hexadecimal(value, "")


def _hexadecimal(value: float, suffix: str) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no literal")
    mantissa, exponent = value.hex().split("p")
    # Python writes all digits of a float64; those of a float32 end in zeros.
    whole, _, digits = mantissa.partition(".")
    digits = digits.rstrip("0")
    return f"{whole}{'.' if digits else ''}{digits}p{exponent}{suffix}"


def array_text(values: npt.NDArray[Any]) -> str:
    """Return the lines of an array's initialiser, without its braces: float32, float16 as its bits, or int8."""
    if values.dtype == np.float16:
        literals, a_line = [f"0x{bits:04x}" for bits in values.ravel().view(np.uint16).tolist()], 2 * A_LINE
    elif values.dtype == np.int8:
        literals, a_line = [str(value) for value in values.ravel().tolist()], 3 * A_LINE
    else:
        literals, a_line = [float_literal(value) for value in values.ravel().tolist()], A_LINE
    lines = (", ".join(literals[start : start + a_line]) for start in range(0, len(literals), a_line))
    return "".join(f"  {line},\n" for line in lines)

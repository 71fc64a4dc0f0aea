"""The state of numpy's random generators as numbers that a file can hold."""

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

STATE_WORDS = 6
"""Numbers that `generator_state` gives: four of the generator itself, then half a draw that it may hold back."""


def generator_state(rng: np.random.Generator) -> Words:
    """Return the state of a generator on PCG64 (numpy's default) or SFC64, shape (STATE_WORDS,).

    Raises:
        TypeError: it is built on another bit generator.
    """
    state: Any = rng.bit_generator.state
    if state["bit_generator"] == "SFC64":
        own = [int(word) for word in state["state"]["state"]]
    elif state["bit_generator"] == "PCG64":
        own = [half for name in ("state", "inc") for half in divmod(state["state"][name], 2**64)]
    else:
        raise TypeError(f"the state of {state['bit_generator']} cannot be stored")
    return np.array([*own, state["has_uint32"], state["uinteger"]], np.uint64)


def set_generator_state(rng: np.random.Generator, words: Words) -> None:
    """Let a generator go on from what `generator_state` gave for one on the same bit generator.

    Raises:
        TypeError: it is built on another bit generator.
        ValueError: the numbers are something else.
    """
    if words.shape != (STATE_WORDS,) or words.dtype != np.uint64 or words[4] > 1 or words[5] > 2**32 - 1:
        raise ValueError("these numbers are no generator's state")
    state: Any = rng.bit_generator.state
    if state["bit_generator"] == "SFC64":
        state["state"]["state"] = words[:4].copy()
    elif state["bit_generator"] == "PCG64":
        halves = [int(word) for word in words[:4]]
        if halves[3] % 2 == 0:
            raise ValueError("these numbers are no generator's state: an even increment")
        state["state"] = {"state": halves[0] << 64 | halves[1], "inc": halves[2] << 64 | halves[3]}
    else:
        raise TypeError(f"the state of {state['bit_generator']} cannot be restored")
    state["has_uint32"], state["uinteger"] = int(words[4]), int(words[5])
    rng.bit_generator.state = state

"""Array types, and elementwise functions that several rooms need."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def sigmoid(logit: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return probabilities for logits of any shape, without overflow for large ones."""
    probability: npt.NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logit, np.float64)))
    return probability

"""The golden sequences of any policy's bundle."""

import io

import numpy as np
import numpy.typing as npt

from .bundle import UNREADABLE
from .faults import Fault, OnboardFault
from .policy_contract import PolicyOnboardContract


def read_sequences(data: bytes, contract: PolicyOnboardContract) -> dict[str, npt.NDArray[np.generic]]:
    """Return the arrays that `replay_sequences` takes.

    Raises:
        OnboardFault: one is missing, or has another shape or type.
    """
    names = ["reset", "actions", *(f"obs/{name}" for name in contract.groups)]
    names += ["head_logit", "head_terms"] if contract.head else []
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            golden = {name: archive[name] for name in names}
    except UNREADABLE as error:
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"golden.npz cannot be read ({error})") from error
    reset = golden["reset"]
    if reset.dtype != np.bool_ or reset.ndim != 2 or reset.size == 0 or not reset[0].all():
        raise OnboardFault(Fault.BUNDLE_ALTERED, f"golden.npz: reset is {reset.dtype} of shape {reset.shape}")
    shapes: dict[str, tuple[int, ...]] = {f"obs/{name}": shape for name, shape in contract.groups.items()}
    shapes |= {"actions": (contract.num_actions,), "head_logit": (1,), "head_terms": (1,)}
    for name in names[1:]:
        array = golden[name]
        if array.dtype != np.float32 or array.shape != (*reset.shape, *shapes[name]):
            raise OnboardFault(Fault.BUNDLE_ALTERED, f"golden.npz: {name} is {array.dtype} of shape {array.shape}")
    return golden

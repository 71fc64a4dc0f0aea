"""Read the bundle of any policy that is no `VisionActorCritic`. Needs no torch."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_text import POLICY_KIND, kind_of
from deploy_kit.bundle.golden_arrays import read_arrays
from deploy_kit.bundle.policy_contract import PolicyContract
from deploy_kit.bundle.reader import (
    CONTRACT_NAME,
    GOLDEN_NAME,
    BundleFolder,
    check_files,
    read_json_text,
)
from deploy_kit.errors import BundleError

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GoldenSequences:
    """Sequences of observations with what PyTorch gave for them: T steps of N episodes side by side.

    Attributes:
        observation: (T, N, …) of each observation group.
        reset: (T, N), whether the state is reset before that step; true at the first one.
        actions: (T, N, A).
        features: (T, N, F).
        head_logit: (T, N, 1), None without a head.
        head_terms: (T, N, 1), summed sizes of the terms that each logit is the sum of; None likewise.
        state: (T, layers, N, hidden) after each step, by the output's name.
        source: "recorded" or "synthetic".
    """

    observation: dict[str, Float32]
    reset: npt.NDArray[np.bool_]
    actions: Float32
    features: Float32
    head_logit: Float32 | None
    head_terms: Float32 | None
    state: dict[str, Float32]
    source: str

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of the npz file, by name."""
        arrays: dict[str, npt.NDArray[Any]] = {f"obs/{name}": values for name, values in self.observation.items()}
        arrays |= {"reset": self.reset, "actions": self.actions, "features": self.features}
        if self.head_logit is not None and self.head_terms is not None:
            arrays |= {"head_logit": self.head_logit, "head_terms": self.head_terms}
        arrays |= {f"state/{name}": values for name, values in self.state.items()}
        return {**arrays, "source": np.array(self.source)}


@dataclass(frozen=True)
class PolicyBundle(BundleFolder):
    """A bundle of any policy whose files have the sizes and hashes that its manifest names.

    Attributes:
        contract: the contract of `contract.json`.
    """

    contract: PolicyContract

    @cached_property
    def golden(self) -> GoldenSequences:
        """The golden sequences.

        Raises:
            BundleError: they do not fit the contract.
        """
        return read_sequences(self.path / GOLDEN_NAME, self.contract)


def is_policy_bundle(path: Path) -> bool:
    """Return whether a folder's contract says that it is of such a policy; false for what cannot be read."""
    try:
        return bool(kind_of(read_json_text(path / CONTRACT_NAME)) == POLICY_KIND)
    except BundleError:
        return False


def read_any_contract(text: str, where: str) -> Contract | PolicyContract:
    """Return a contract of either kind.

    Args:
        text: JSON text.
        where: what to call the text in messages.

    Raises:
        BundleError: it is no contract, or not of the schema that is read.
    """
    return (PolicyContract if kind_of(text) == POLICY_KIND else Contract).from_json(text, where)


def open_policy_bundle(path: Path) -> PolicyBundle:
    """Open a bundle and check its manifest and contract.

    Args:
        path: the bundle's folder.

    Raises:
        BundleError: no bundle, a file is missing, altered, a link or outside, or the contract cannot be read.
    """
    files = check_files(path)
    contract = PolicyContract.from_json(read_json_text(path / CONTRACT_NAME), str(path / CONTRACT_NAME))
    return PolicyBundle(path, files, contract)


def read_sequences(path: Path, contract: PolicyContract) -> GoldenSequences:
    """Read golden sequences.

    Args:
        path: the npz file.
        contract: gives the expected sizes.

    Raises:
        BundleError: not an npz file of plain arrays, or shapes, types or values do not fit.
    """
    arrays = read_arrays(path)
    reset = arrays.get("reset")
    if reset is None or reset.dtype != np.bool_ or reset.ndim != 2 or not reset.size or not reset[0].all():
        raise BundleError(f"{path}: 'reset' must tell for each step and episode whether it begins; export again")
    steps, count = reset.shape
    expected: dict[str, tuple[int, ...]] = {
        f"obs/{group.name}": (steps, count, *group.shape) for group in contract.groups
    }
    expected |= {"actions": (steps, count, contract.network.num_actions)}
    expected |= {"features": (steps, count, contract.network.feature_size)}
    expected |= {} if contract.head is None else dict.fromkeys(("head_logit", "head_terms"), (steps, count, 1))
    expected |= {f"state/{item.output}": (steps, item.layers, count, item.hidden) for item in contract.state}
    if set(arrays) != {*expected, "reset", "source"}:
        different = sorted(set(arrays) ^ {*expected, "reset", "source"})
        raise BundleError(f"{path}: the array {different[0]!r} is missing or not on the list; export the bundle again")
    for name, shape in expected.items():
        array = arrays[name]
        if array.dtype != np.float32 or array.shape != shape:
            raise BundleError(f"{path}: {name} is {array.dtype} {array.shape}, expected float32 {shape}; export again")
        if not np.isfinite(array).all():
            raise BundleError(f"{path}: {name} holds a value that is not finite; export the bundle again")
    source = arrays["source"]
    if source.dtype.kind != "U" or source.shape != ():
        raise BundleError(f"{path}: source must be a string; export the bundle again")
    return GoldenSequences(
        observation={group.name: arrays[f"obs/{group.name}"] for group in contract.groups},
        reset=reset,
        actions=arrays["actions"],
        features=arrays["features"],
        head_logit=arrays.get("head_logit"),
        head_terms=arrays.get("head_terms"),
        state={item.output: arrays[f"state/{item.output}"] for item in contract.state},
        source=str(source),
    )

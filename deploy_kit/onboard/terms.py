"""Puts observation groups together from terms by name: joints by their names, units, clips, scales, histories."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .contract import FloatArray
from .faults import Fault, OnboardFault
from .policy_contract import Float64, PolicyOnboardContract, Term


def joint_permutation(wanted: Sequence[str], order: Sequence[str], where: str) -> npt.NDArray[np.int64]:
    """Return where in the robot's order each wanted joint stands, among those that are wanted.

    Args:
        wanted: joints in the policy's order.
        order: all joints in the robot's order.
        where: what the joints are of, for messages.

    Raises:
        OnboardFault: the robot lacks a joint.
    """
    if missing := [name for name in wanted if name not in order]:
        raise OnboardFault(
            Fault.OPTIONS,
            f"joint_order lacks {', '.join(missing)}, which {where} needs; the robot has {', '.join(order)}",
        )
    given = [name for name in order if name in wanted]
    return np.array([given.index(name) for name in wanted], np.int64)


class TermAssembler:
    """Fills the graph's observation groups.

    Args:
        contract: terms and groups.
        joint_order: joints in the robot's order, None where the contract names none.
        margin: share of its range by which a number may leave it.
        targets: where each group goes, by name.

    Attributes:
        names: keys that `fill` takes.
    """

    def __init__(
        self,
        contract: PolicyOnboardContract,
        joint_order: Sequence[str] | None,
        margin: float,
        targets: dict[str, FloatArray],
    ) -> None:
        self._terms, self._targets, self._contract = contract.terms, targets, contract
        with_terms = {term.group for term in contract.terms}
        self._whole = [name for name in contract.groups if name not in with_terms]
        self.names = (*(term.name for term in contract.terms if not term.own), *self._whole)
        self._order = {
            term.name: joint_permutation(term.joints, joint_order, f"term {term.name}")
            for term in contract.terms
            if term.joints is not None and not term.own and joint_order is not None
        }
        self._bounds = {}
        for term in contract.terms:
            span = term.high - term.low
            slack = margin * np.where(np.isfinite(span), span, 0.0)
            self._bounds[term.name] = term.low - slack, term.high + slack
        self.reset()

    def reset(self) -> None:
        """Forget past steps."""
        self._past: dict[str, FloatArray] = {}
        self._present: dict[str, FloatArray] = {}

    def keep(self) -> None:
        """Count what `fill` put in last among the past steps."""
        self._past |= self._present

    def fill(self, values: Mapping[str, Any], last_action: Float64) -> None:
        """Put a step's values into the groups; histories stay as they were until `keep`.

        Args:
            values: by term, in the contract's units, joints in the robot's order; whole groups by their names.
            last_action: (n,) action of the step before.

        Raises:
            OnboardFault: a term is missing or unknown, has another shape or type, is not finite or out of its range.
        """
        if not isinstance(values, Mapping):
            raise OnboardFault(Fault.STATE_TYPE, f"the terms are {type(values).__name__}, give a dictionary by name")
        if missing := [name for name in self.names if name not in values]:
            raise OnboardFault(Fault.STATE_SHAPE, f"the terms lack {', '.join(missing)}")
        if unknown := [name for name in values if name not in self.names]:
            own = [term.name for term in self._terms if term.own]
            note = f"; {own[0]} is filled in by the runner" if own and unknown[0] in own else ""
            raise OnboardFault(Fault.STATE_SHAPE, f"the policy reads no term {str(unknown[0])[:60]!r}{note}")
        numbers = {
            term.name: self._network_numbers(term, last_action if term.own else self._given(term, values[term.name]))
            for term in self._terms
        }
        whole = {name: self._whole_group(name, values[name]) for name in self._whole}
        for term in self._terms:
            now = numbers[term.name]
            past = self._past.get(term.name)
            if term.history > 1:
                # At the start of an episode all steps are the first one, as in Isaac Lab.
                now = np.tile(now, term.history) if past is None else np.concatenate([past[term.size :], now])
                self._present[term.name] = now
            self._targets[term.group][term.start : term.start + term.size * term.history] = now
        for name, array in whole.items():
            self._targets[name][:] = array

    def _given(self, term: Term, value: Any) -> Float64:
        """Return a term's value in the policy's order, as float64."""
        array = _floats(term.name, value)
        if array.ndim == 0 and term.size == 1:
            array = array.reshape(1)
        if array.shape != (term.size,):
            note = "" if term.joints is None else f": {', '.join(term.joints)} alone, in joint_order's order"
            raise OnboardFault(
                Fault.STATE_SHAPE, f"term {term.name} has shape {array.shape}, expected ({term.size},){note}"
            )
        if term.name in self._order:
            array = array[self._order[term.name]]
        low, high = self._bounds[term.name]
        # Written so that NaN is refused too.
        if not ((low <= array) & (array <= high) & np.isfinite(array)).all():
            self._refuse(term, array)
        return array

    def _refuse(self, term: Term, array: Float64) -> None:
        labels = term.joints or range(term.size)
        for label, value in zip(labels, array):  # noqa: B905 # one each
            if not np.isfinite(value):
                raise OnboardFault(Fault.STATE_NOT_FINITE, f"{term.name}[{label}] is {value}")
        bounds = self._bounds[term.name]
        index = int(np.argmax((array < bounds[0]) | (array > bounds[1])))
        unit = "" if term.unit in (None, "1") else f" {term.unit}"
        raise OnboardFault(
            Fault.STATE_OUT_OF_RANGE,
            f"{term.name}[{list(labels)[index]}] is {array[index]:g}{unit}, expected {term.low[index]:g} to "
            f"{term.high[index]:g}",
        )

    def _network_numbers(self, term: Term, value: Float64) -> FloatArray:
        numbers: FloatArray = (np.clip(value + term.offset, *term.clip) * term.scale).astype(np.float32)
        return numbers

    def _whole_group(self, name: str, value: Any) -> FloatArray:
        array, shape = _floats(name, value), self._contract.groups[name]
        if array.shape != shape:
            raise OnboardFault(Fault.STATE_SHAPE, f"group {name} has shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            raise OnboardFault(Fault.STATE_NOT_FINITE, f"group {name} holds a number that is not finite")
        return array.astype(np.float32)


def _floats(name: str, value: Any) -> Float64:
    """Return a value as float64; whole numbers, booleans and texts are no measurements, and most likely a mistake."""
    if isinstance(value, np.ma.MaskedArray):
        raise OnboardFault(Fault.STATE_TYPE, f"{name} is a masked array, give plain numbers")
    try:
        array = np.asarray(value)
        fits = array.dtype.kind == "f" or (array.dtype.kind in "iu" and not isinstance(value, np.ndarray))
        converted: Float64 = array.astype(np.float64) if fits else np.empty(0)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise OnboardFault(Fault.STATE_TYPE, f"{name} is {type(value).__name__}, give an array of floats")
    return converted

"""Compares a header with the one that would have been written, as data: nothing of it is compiled.

Only a text that is the same to the last character is ever compiled. What differs is named by the array or the part of
the header that it lies in.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_NAMED = 5
"""Differences that are named; more would say no more."""

_ARRAY = re.compile(r"^(?:alignas\(64\) )?inline const (float|std::u?int\d+_t) (\w+)\[(\d+)\] = \{$")
_LITERALS = {
    np.float32: re.compile(r"-?0x[01](?:\.[0-9a-f]{1,6})?p[+-]\d{1,3}f"),
    np.float16: re.compile(r"0x[0-9a-f]{4}"),
    np.int8: re.compile(r"0|-?[1-9]\d?|-?1[01]\d|-?12[0-7]"),
}
"""Numbers as they are written, by type; float16 as its bits."""
_GENERATOR = re.compile(r"Generator (\d+)\.")
_PLACES = (
    ("// ---- the contract's constants", "the contract's constants"),
    ("// ---- weights", "the weights"),
    ("// ---- kernels", "the kernels"),
    ("// ---- golden samples", "the golden samples"),
    ("// ---- the whole step", "the step"),
    ("// ---- for callers in other languages", "the C interface"),
)


def differences(found: str, expected: str) -> tuple[str, ...]:
    """Return how a header differs from the one that would have been written; nothing if it does not differ at all.

    Args:
        found: the text that is judged.
        expected: the text that the checkpoint implies.
    """
    if found == expected:
        return ()
    versions = [match.group(1) if (match := _GENERATOR.search(text[:500])) else None for text in (found, expected)]
    if versions[0] != versions[1]:
        return (
            f"it was written by generator {versions[0]}, this deploy-kit has generator {versions[1]}: export the "
            "bundle again, or verify it with the deploy-kit that wrote it",
        )
    problems = list(_problems(_without_carriage_returns(found), expected))
    more = len(problems) - MOST_NAMED
    # Line ends, and the name that is the hash of the rest, are characters too.
    other = "its lines end with carriage returns" if "\r" in found else "its namespace is not named after its content"
    named = problems[:MOST_NAMED] or [other]
    return (*named, f"and {more} more") if more > 0 else tuple(named)


def _without_carriage_returns(text: str) -> str:
    return text.replace("\r\n", "\n")


def _problems(found: str, expected: str) -> Iterator[str]:
    ours, theirs = _Parts(expected), _Parts(found)
    for name in ours.arrays:
        if name not in theirs.arrays:
            yield f"the array {name} is missing"
        elif (problem := _array_problem(theirs.arrays[name], ours.arrays[name])) is not None:
            yield f"the array {name} {problem}"
    for (line, place, said), (_, _, wanted) in zip_longest(theirs.lines, ours.lines, fillvalue=(0, "the end", "")):
        if said != wanted:
            where = f"line {line}, in {place}" if line else "the end"
            yield f"{where}: {said[:80]!r}, expected {wanted[:80]!r}"
            # What follows is most likely the same, moved by a line.
            return


class _Parts:
    """A header in parts: arrays by name, each as its lines, and the other lines with number and place."""

    def __init__(self, text: str) -> None:
        self.arrays: dict[str, list[str]] = {}
        self.lines: list[tuple[int, str, str]] = []
        place, inside = "the introduction", None
        for number, line in enumerate(text.split("\n"), 1):
            place = next((name for begin, name in _PLACES if line.startswith(begin)), place)
            if inside is not None and line != "};":
                inside.append(line)
                continue
            inside = None
            if match := _ARRAY.match(line):
                inside = self.arrays.setdefault(match.group(2), [])
            # The namespace is the hash of the rest.
            self.lines.append((number, place, re.sub(r"policy_[0-9a-f]{16}\b", "policy_", line)))


def _array_problem(found: list[str], expected: list[str]) -> str | None:
    if found == expected:
        return None
    values, wanted = _values(found), _values(expected)
    assert wanted is not None
    if values is None or values.dtype != wanted.dtype:
        return "holds something that is no number as deploy-kit writes it"
    if len(values) != len(wanted):
        return f"has {len(values)} numbers, expected {len(wanted)}"
    bits = f"u{values.itemsize}"
    differs = values.view(bits) != wanted.view(bits)
    if not differs.any():
        return "has the right numbers, written otherwise"
    with np.errstate(invalid="ignore"):
        error = np.abs(values.astype(np.float64) - wanted.astype(np.float64))
    worst = int(np.argmax(np.where(differs, error, -1.0)))
    return f"differs in {int(differs.sum())} of {len(wanted)} values, by up to {error[worst]:.3g} at [{worst}]"


def _values(lines: list[str]) -> npt.NDArray[Any] | None:
    """Return an array's numbers in their type, None if something is no number of one type."""
    literals = [literal.strip() for line in lines for literal in line.rstrip(",").split(",")]
    for kind, form in _LITERALS.items():
        if all(form.fullmatch(literal) for literal in literals):
            if kind is np.float16:
                return np.array([int(literal, 16) for literal in literals], np.uint16).view(np.float16)
            if kind is np.int8:
                return np.array([int(literal) for literal in literals], np.int8)
            with np.errstate(over="ignore"):
                return np.array([float.fromhex(literal[:-1]) for literal in literals], np.float32)
    return None

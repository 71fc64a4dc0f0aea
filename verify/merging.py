"""Adds up what several shares of the flights measured, as if one pass had seen all of their rows.

Counts and sums add up, and of the worst cases those are kept that no other exceeds. What is merged does not depend on
which process measured it: the shares' order alone counts.
"""

from collections.abc import Sequence
from dataclasses import replace

from deploy_kit.bundle.differences import ChannelError, DecisionParity, Element, OutputParity
from deploy_kit.bundle.parity import ParityCheck


def merged_parity(checks: Sequence[ParityCheck]) -> ParityCheck:
    """Return one parity check of several over different rows.

    Args:
        checks: of the same outputs, in the order of their rows; a single one is returned as it is.
    """
    first = checks[0]
    if len(checks) == 1:
        return first
    before = [sum(check.rows for check in checks[:index]) for index in range(len(checks))]
    decisions = [check.decisions for check in checks if check.decisions is not None]
    return replace(
        first,
        rows=sum(check.rows for check in checks),
        outputs=tuple(_output(column, before) for column in zip(*(check.outputs for check in checks), strict=True)),
        commands=tuple(_command(column) for column in zip(*(check.commands for check in checks), strict=True)),
        decisions=_decisions(decisions) if decisions else None,
    )


def _output(parts: Sequence[OutputParity], before: Sequence[int]) -> OutputParity:
    elements, nonfinite = sum(part.elements for part in parts), sum(part.nonfinite for part in parts)
    total = sum(part.mean_error * (part.elements - part.nonfinite) for part in parts)
    named = (part.nonfinite_where for part in parts if part.nonfinite_where is not None)
    found = [
        replace(element, row=element.row + rows)
        for part, rows in zip(parts, before, strict=True)
        for element in part.frontier
    ]
    return OutputParity(
        name=parts[0].name,
        elements=elements,
        nonfinite=nonfinite,
        nonfinite_where=next(named, None),
        mean_error=total / (elements - nonfinite) if elements > nonfinite else 0.0,
        frontier=_frontier(found),
        problem=next((part.problem for part in parts if part.problem is not None), None),
    )


def _frontier(elements: Sequence[Element]) -> tuple[Element, ...]:
    """Return the elements whose error exceeds that of all of smaller or equal reference; see `OutputComparison`."""
    kept: list[Element] = []
    for element in sorted(elements, key=lambda one: (one.reference, -one.error)):
        if not kept or element.error > kept[-1].error:
            kept.append(element)
    return tuple(kept)


def _command(parts: Sequence[ChannelError]) -> ChannelError:
    # The first of several equal ones, as in one pass.
    return max(parts, key=lambda part: part.max_error)


def _decisions(parts: Sequence[DecisionParity]) -> DecisionParity:
    flipped = [part for part in parts if part.flipped]
    farthest = max(flipped, key=lambda part: part.largest_margin, default=parts[0])
    return DecisionParity(
        threshold_logit=parts[0].threshold_logit,
        decisions=sum(part.decisions for part in parts),
        positive=sum(part.positive for part in parts),
        flipped=sum(part.flipped for part in parts),
        largest_margin=farthest.largest_margin,
        where=farthest.where,
    )

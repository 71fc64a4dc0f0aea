"""From figures and limits to a verdict."""

from dataclasses import dataclass
from enum import StrEnum

from deploy_kit.bundle.parity import ParityCheck, judge_parity
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.verify.findings import Check, FactCheck, FlightCheck, NotRun, ReferenceFlight


class Status(StrEnum):
    """Outcome of one check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Verdict:
    """Judgement of one check under given thresholds.

    Attributes:
        name: of the check.
        status: passed, failed or not run.
        limit: the rule that was applied.
        reasons: what broke it, or why it was not run.
    """

    name: str
    status: Status
    limit: str
    reasons: tuple[str, ...]


def judge(check: Check, thresholds: Thresholds) -> Verdict:
    """Return the verdict on a check."""
    if isinstance(check, NotRun):
        return Verdict(check.name, Status.NOT_RUN, "", (check.reason,))
    if isinstance(check, FactCheck):
        limit, reasons = "all hold", check.problems
    elif isinstance(check, ParityCheck):
        limit, reasons = judge_parity(check, thresholds)
    elif isinstance(check, ReferenceFlight):
        limit, reasons = _judge_reference(check, thresholds)
    else:
        limit, reasons = _judge_flight(check, thresholds)
    return Verdict(check.name, Status.FAILED if reasons else Status.PASSED, limit, tuple(reasons))


def _judge_reference(check: ReferenceFlight, thresholds: Thresholds) -> tuple[str, tuple[str, ...]]:
    reasons = []
    # Written so that NaN fails too.
    if not check.gates >= thresholds.min_gates:
        reasons.append(
            f"the checkpoint passes {check.gates:.2f} gates an episode: it does not fly, so flights show nothing; give "
            "the task, stage and tracks that it was trained for"
        )
    if check.episodes < thresholds.min_episodes:
        reasons.append(f"{check.episodes} episodes are too few")
    limit = f"at least {thresholds.min_gates:g} gates an episode, in at least {thresholds.min_episodes} episodes"
    return limit, tuple(reasons)


def _judge_flight(check: FlightCheck, thresholds: Thresholds) -> tuple[str, tuple[str, ...]]:
    """Judge a difference of flights.

    Where episodes are pairs, the whole 95 % interval must lie within the margins. Where they are not, two one-sided
    tests at 5 % must find both sides equal. A thorough run must besides have flown enough to see the margin.
    """
    margins = thresholds.margins if check.thorough else thresholds.quick_margins
    reasons = []
    for figure in check.differences:
        margin = margins.of(figure.name)
        low, high = figure.ci95 if check.paired else figure.ci90
        if not (figure.within(margin) if check.paired else figure.equivalent(margin)):
            reasons.append(
                f"{figure.name}: {figure.reference:.3g} → {figure.candidate:.3g} {_unit(figure.unit)}, the "
                f"{95 if check.paired else 90} % interval of the difference [{low:.2g}, {high:.2g}] leaves ±{margin:g}"
            )
        elif check.thorough and not figure.visible <= margin:
            reasons.append(
                f"{figure.name}: {figure.pairs} episodes show a difference of {figure.visible:.2g} "
                f"{_unit(figure.unit)} or more, not one of {margin:g}; about {figure.episodes_for(margin)} would"
            )
    pairs = min((figure.pairs for figure in check.differences), default=0)
    if not check.differences:
        reasons.append("nothing was compared")
    elif pairs < thresholds.min_episodes:
        reasons.append(f"{pairs} episodes are too few, at least {thresholds.min_episodes} are needed")
    bounds = (
        f"{figure.name} ±{margins.of(figure.name):g} {_unit(figure.unit)}".rstrip() for figure in check.differences
    )
    rule = "95 % of the difference within" if check.paired else "equivalent by two one-sided tests at 5 % within"
    seen = ", which the flights could have shown" if check.thorough else ""
    return f"{rule} {', '.join(bounds)}{seen}", tuple(reasons)


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit

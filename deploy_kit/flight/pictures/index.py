"""The page of a flight: what came out, the flights to look at, and the gate's threshold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploy_kit import __version__
from deploy_kit.data.schema import utc_now
from deploy_kit.flight.episodes import Estimate
from deploy_kit.flight.passages import sweep_thresholds
from deploy_kit.flight.pictures.widget import ShownFlight, flight_widget, threshold_widget
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.page.blocks import Block, Cell, Facts, Gap, Note, Page, Section, Table, Verdict

if TYPE_CHECKING:
    from deploy_kit.flight.first_episodes import Flight
    from deploy_kit.flight.flown_policy import FlownPolicy
    from deploy_kit.flight.record import FlightComparison, PolicyFlight

PAGE_NAME = "index.html"


@dataclass(frozen=True)
class FlownFlights:
    """One policy's flights, with those that the page shows.

    Attributes:
        policy: who flew.
        flight: all first episodes.
        summary: their figures.
        shown: traces of the page, the first one is shown first.
        watched: traces for viewers.
    """

    policy: "FlownPolicy"
    flight: "Flight"
    summary: "PolicyFlight"
    shown: tuple[FlightTrace, ...]
    watched: tuple[FlightTrace, ...] = ()


def chosen_traces(traces: Sequence[FlightTrace]) -> tuple[FlightTrace, ...]:
    """Return the flight with the most gates and, if any crashed, the crash with the fewest; none of none."""
    if not traces:
        return ()
    best = max(traces, key=lambda trace: (len(trace.pass_steps), not trace.crashed))
    crashes = [trace for trace in traces if trace.crashed and trace is not best]
    return (best, *sorted(crashes, key=lambda trace: len(trace.pass_steps))[:1])


def flight_page(flown: Sequence[FlownFlights], comparison: "FlightComparison | None", facts: dict[str, str]) -> Page:
    """Return the page of one policy's flights, or of two policies' from the same starts.

    Args:
        flown: one a policy.
        comparison: comparison of two.
        facts: how they were flown, in words.
    """
    sections = [
        Section("In the air", (flights_block(flown),)),
        *detector_sections(flown[0]),
        Section("Figures", tuple(_figures(flown, comparison))),
        Section("What flew, and how", (Facts({**_policies(flown), **facts}),)),
    ]
    return Page(
        title="Flight",
        verdict=_verdict(flown),
        sections=tuple(sections),
        footer=f"deploy-kit {__version__}, {utc_now()}",
    )


def flights_block(flown: Sequence[FlownFlights]) -> Block:
    """Return the flights to look at."""
    policy = flown[0].policy
    shown = named_flights(flown, [flights.shown for flights in flown])
    return flight_widget(shown, policy.layout.image_shape, policy.threshold)


def named_flights(flown: Sequence[FlownFlights], traces: Sequence[Sequence[FlightTrace]]) -> tuple[ShownFlight, ...]:
    """Return flights with their names, policy by policy.

    Args:
        flown: one a policy.
        traces: of each policy.
    """
    names = ("",) if len(flown) == 1 else ("First policy, ", "Second policy, ")
    return tuple(
        ShownFlight(_name(prefix, trace), _about(trace), trace, flights.policy.transform)
        for prefix, flights, chosen in zip(names, flown, traces, strict=True)
        for trace in chosen
    )


def detector_sections(flights: FlownFlights) -> list[Section]:
    """Return the section with the gate's threshold, or what is missing for it; none without a gate head."""
    scores = flights.flight.episodes.gate_scores()
    if scores is None:
        return []
    title = "Gate detector: passages found against false alarms"
    if not scores.label.any():
        return [Section(title, (Gap("passages found", "No gate was passed in these flights."),))]
    if not np.isfinite(scores.logit).all():
        return [Section(title, (Gap("passages found", "The gate head gave NaN or infinity."),))]
    period = flights.shown[0].policy_period
    episodes = flights.flight.episodes.num_envs
    note = (
        f"Over all {episodes} flights, with the detector that flies: it fires at the threshold and then rests. "
        "Drag the threshold; the dashed line in the flight above follows."
    )
    return [Section(title, (Note(note), threshold_widget(sweep_thresholds(scores, period, flights.policy.detector))))]


def _verdict(flown: Sequence[FlownFlights]) -> Verdict:
    lines = []
    for flights in flown:
        statistics = flights.summary.statistics
        low, high = statistics.crash_rate.ci95
        crashed = f"{statistics.crash_rate.mean:.0%} of {statistics.episodes} flights crashed"
        line = f"{crashed} (95 %: {low:.0%} to {high:.0%})."
        if statistics.mean_speed is not None:
            line += f" Mean speed {statistics.mean_speed.mean:.2f} m/s."
        lines.append(line)
    gates = [flights.summary.statistics.gates_per_episode for flights in flown]
    said = " and ".join(f"{figure.mean:.2f}" for figure in gates)
    low, high = gates[0].ci95
    interval = (
        f" (95 %: {low:.2f} to {high:.2f})" if len(gates) == 1 and flown[0].summary.statistics.episodes > 1 else ""
    )
    return Verdict(f"{said} gates per flight{interval}", "plain", tuple(lines))


def _name(prefix: str, trace: FlightTrace) -> str:
    gates = len(trace.pass_steps)
    end = ", then a crash" if trace.crashed else ""
    name = f"{prefix}environment {trace.env}: {gates} gate{'' if gates == 1 else 's'}{end}"
    return name[0].upper() + name[1:]


def _about(trace: FlightTrace) -> str:
    place = ""
    if trace.track is not None:
        obstacles = sum(primitive.role == "obstacle" for primitive in trace.track.primitives)
        article = "an" if trace.track.kind == "ellipse" else "a"
        place = f" on {article} {trace.track.kind} track with {obstacles} obstacles"
    gates = len(trace.pass_steps)
    end = "It ended in a crash." if trace.crashed else "It ended by its time."
    return f"{gates} gate{'' if gates == 1 else 's'} in {trace.duration:.1f} s{place}. {end}"


def _figures(flown: Sequence[FlownFlights], comparison: "FlightComparison | None") -> list[Block]:
    names = ("flights",) if len(flown) == 1 else ("first policy", "second policy")
    columns = [flights.summary.statistics for flights in flown]
    rows = (
        ("gates per flight", [s.gates_per_episode for s in columns], "{:.2f}"),
        ("crashes", [s.crash_rate for s in columns], "{:.1%}"),
        ("mean speed (m/s)", [s.mean_speed for s in columns], "{:.2f}"),
        ("gate head's AUROC", [s.gate_auroc for s in columns], "{:.3f}"),
    )
    cells = tuple((Cell(name), *(_estimate(figure, form) for figure in figures)) for name, figures, form in rows)
    blocks: list[Block] = [Table("Means with 95 % intervals", ("figure", *names), cells)]
    if comparison is not None:
        caption = "Second policy minus first, flight by flight from the same starts"
        if not comparison.paired:
            caption = "Second policy minus first; the environment did not repeat itself, so the flights are no pairs"
        pairs = tuple(
            (
                Cell(f.name),
                Cell(f"{f.difference:+.3f}", f"[{f.ci95[0]:+.3f}, {f.ci95[1]:+.3f}]"),
                Cell(str(f.equal_pairs)),
            )
            for f in comparison.differences
        )
        blocks.append(Table(caption, ("figure", "difference", "equal pairs"), pairs))
    return blocks


def _estimate(figure: Estimate | None, form: str) -> Cell:
    if figure is None:
        return Cell("not measured")
    low, high = (form.format(bound) for bound in figure.ci95)
    # One flight gives no interval.
    return Cell(form.format(figure.mean), f"[{low}, {high}]" if math.isfinite(figure.ci95[0]) else "")


def _policies(flown: Sequence[FlownFlights]) -> dict[str, str]:
    names = ("Policy",) if len(flown) == 1 else ("First policy", "Second policy")
    return {
        name: f"{policy.file} ({policy.kind}, sha256 {policy.sha256:.12}…)"
        for name, policy in zip(names, (flights.summary.policy for flights in flown), strict=True)
    }

"""The report as a page: verdict, what failed, errors against limits, decisions, flights, worst inputs, all checks."""

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from deploy_kit.bundle.differences import ChannelError
from deploy_kit.bundle.parity import ParityCheck, share_of_tolerance, tolerance_of
from deploy_kit.flight.pictures.track import draw_track_axes
from deploy_kit.flight.pictures.widget import ShownFlight, flight_widget
from deploy_kit.page.blocks import Block, Cell, Facts, Gap, Note, Page, Picture, Section, Table, Tone, Verdict
from deploy_kit.plot_style import plot_style
from deploy_kit.verify.findings import FlightCheck, ReferenceFlight
from deploy_kit.verify.outputs.evidence import Evidence, WorstCase
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.table import table_rows

TONES: dict[Status, Tone] = {Status.PASSED: "good", Status.FAILED: "bad", Status.NOT_RUN: "warn"}

_JUDGED_AGAIN = "Figures were judged again and nothing was run; `deploy-kit verify` of the bundle shows it."
_NONE_FLOWN = "No flight was recorded: the verification ran without live rollouts, or they could not be flown."
_DEPTH_SCALE = 4


def verify_page(report: VerifyReport, evidence: Evidence | None) -> Page:
    """Return a report's page.

    Args:
        report: what was found.
        evidence: what was gathered while the checks ran; None for a report that was judged again.
    """
    sections = [
        *_failures(report),
        Section("Error of each output against its limit", tuple(_errors(report))),
        Section("Decisions", tuple(_decisions(report, evidence))),
        Section("Flights", tuple(_flights(report, evidence))),
        Section("Inputs that came nearest to a limit", tuple(_worst_cases(evidence))),
        Section("All checks", (_all_checks(report),), folded=True),
        Section("What was verified, against what, how", (Facts(_facts(report)),), folded=True),
    ]
    version = report.environment.get("deploy_kit", "")
    return Page("Verification", _verdict(report), tuple(sections), f"deploy-kit {version}, {report.created_utc}")


def _verdict(report: VerifyReport) -> Verdict:
    statuses = [verdict.status for verdict in report.verdicts]
    passed, failed, skipped = (statuses.count(status) for status in (Status.PASSED, Status.FAILED, Status.NOT_RUN))
    others = ", ".join(report.other_profiles)
    lines = [
        f"Bundle {report.subject.bundle} against checkpoint {report.subject.checkpoint}.",
        f"{passed} checks passed, {failed} failed, {skipped} were not run; limits: profile "
        f"{report.thresholds.profile}{f'; of what is narrow: {others}' if others else ''}.",
    ]
    lines += [f"{check.name} was not run, and no option switched it off." for check in report.left_out]
    if report.worst_share is not None:
        check, share = report.worst_share
        lines.append(f"Largest error: {_share(share)} of its limit, in {check}.")
    if not report.passed:
        return Verdict("FAILED", "bad", tuple(lines))
    if not report.complete:
        return Verdict("VERIFIED, but not complete", "warn", tuple(lines))
    return Verdict("VERIFIED", "good", tuple(lines))


def _failures(report: VerifyReport) -> Iterator[Section]:
    failed = [verdict for verdict in report.verdicts if verdict.status is Status.FAILED]
    if failed:
        rows = tuple((Cell(v.name), Cell(reason, tone="bad")) for v in failed for reason in v.reasons or ("",))
        causes = tuple(Note(str(found)) for found in report.diagnosis)
        yield Section("What failed", (Table("Failed checks", ("check", "why"), rows, numeric=False), *causes))


def _errors(report: VerifyReport) -> Iterator[Block]:
    checks = [check for check in report.checks if isinstance(check, ParityCheck)]
    if not checks:
        yield Gap("errors", "No output was compared.")
        return
    rows: list[tuple[float, tuple[Cell, ...]]] = []
    for check in checks:
        tolerance = tolerance_of(check, report.thresholds)
        for output in check.outputs:
            share, worst = share_of_tolerance(output, tolerance), output.worst(tolerance)
            if output.problem is not None or output.nonfinite:
                said = output.problem or f"{output.nonfinite} values NaN or infinite, first at {output.nonfinite_where}"
                bar = Cell("beyond any share", tone="bad")
                rows.append((math.inf, (Cell(output.name), Cell("–"), bar, Cell(check.name), Cell(said))))
            elif worst is not None and share is not None:
                element = worst[0]
                place = f"[{element.channel}] at {element.where}"
                bar = Cell(_share(share), tone="plain" if share <= 1 else "bad", share=share)
                cells = (Cell(output.name), Cell(f"{element.error:.2e}"), bar, Cell(check.name), Cell(place))
                rows.append((share, cells))
    yield Table(
        "The element of each output that uses up most of its limit",
        ("output", "error", "share of limit", "check", "where"),
        tuple(_nearest(rows)),
        numeric=False,
        note="A share below 1 passes. Errors are in units of the output's scale, as docs/verify.md defines them. "
        "Each check's own errors stand under “All checks”.",
    )
    commands: dict[str, tuple[ParityCheck, ChannelError]] = {}
    for check in checks:
        for command in check.commands:
            if command.name not in commands or command.max_error > commands[command.name][1].max_error:
                commands[command.name] = (check, command)
    if commands:
        yield Table(
            "Largest difference of each command, after the action transform",
            ("command", "difference", "where"),
            tuple(
                (Cell(name), Cell(f"{command.max_error:.2e} {command.unit}"), Cell(f"{check.name}, {command.where}"))
                for name, (check, command) in commands.items()
            ),
            numeric=False,
        )


def _nearest(rows: list[tuple[float, tuple[Cell, ...]]]) -> Iterator[tuple[Cell, ...]]:
    """Yield each output's row of the largest share, the largest first."""
    seen = set()
    for _, cells in sorted(rows, key=lambda row: -row[0]):
        if cells[0].text not in seen:
            seen.add(cells[0].text)
            yield cells


def _decisions(report: VerifyReport, evidence: Evidence | None) -> Iterator[Block]:
    decided = [(c, c.decisions) for c in report.checks if isinstance(c, ParityCheck) and c.decisions is not None]
    if not decided:
        yield Gap("decisions", "The policy has no head, or no decision was compared.")
        return
    failed = {verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED}
    yield Table(
        "Decisions that the bundle makes otherwise than the checkpoint",
        ("check", "decisions", "of them positive", "flipped", "farthest from the threshold", "profile"),
        tuple(
            (
                Cell(check.name),
                Cell(f"{found.decisions:,}"),
                Cell(f"{found.positive:,}"),
                # A profile may allow some.
                Cell(f"{found.flipped:,}", tone="bad" if found.flipped and check.name in failed else "plain"),
                Cell(f"{found.largest_margin:.2e}" if found.flipped else "–"),
                Cell(check.profile or report.thresholds.profile),
            )
            for check, found in decided
        ),
    )
    if report.certificate is not None:
        yield Note(f"Certificate: {str(report.certificate).removeprefix('certificate: ')}.")
    if evidence is None:
        yield Gap("margins of the decisions", _JUDGED_AGAIN)
    elif not evidence.margins:
        yield Gap("margins of the decisions", "No recorded observation was replayed.")
    else:
        yield _margins(evidence, report.thresholds.decision_band)


def _margins(evidence: Evidence, band: float) -> Picture:
    margins = np.concatenate(evidence.margins)
    size = np.abs(margins)
    low, high = max(float(size.min()), 1e-6), max(float(size.max()), 1e-5)
    bins = np.geomspace(low, high * 1.001, 31).tolist()
    with plot_style():
        figure = Figure(figsize=(8, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.hist(
            [size[margins < 0], size[margins >= 0]],
            bins=bins,
            stacked=True,
            color=["#9aa3ad", "#2a9d5c"],
            label=["no pass", "pass"],
        )
        axes.axvline(band, color="#b3261e", linestyle="--", linewidth=1.2, label="decisions may flip below")
        axes.set(xscale="log", xlabel="distance of the logit from the threshold", ylabel="decisions")
        axes.legend(frameon=False, loc="upper left")
        content = _png(figure)
    caption = (
        f"Margins of {margins.size:,} decisions on recorded observations; the nearest is {size.min():.2g} from the "
        "threshold."
    )
    return Picture(content, "Histogram of the decisions' margins", caption)


def _flights(report: VerifyReport, evidence: Evidence | None) -> Iterator[Block]:
    references = [check for check in report.checks if isinstance(check, ReferenceFlight)]
    for flown in references:
        yield Note(f"{flown.compared}: {flown.episodes} episodes, {flown.gates:.2f} gates each.")
    compared = [check for check in report.checks if isinstance(check, FlightCheck) and check.differences]
    for check in compared:
        yield Table(
            f"{check.name}: {check.compared}",
            ("figure", "checkpoint", "bundle", "difference", "equal pairs"),
            tuple(
                (
                    Cell(figure.name if figure.unit == "1" else f"{figure.name} ({figure.unit})"),
                    Cell(f"{figure.reference:.3f}"),
                    Cell(f"{figure.candidate:.3f}"),
                    Cell(f"{figure.difference:+.3f}", f"[{figure.ci95[0]:+.3f}, {figure.ci95[1]:+.3f}]"),
                    Cell(f"{figure.equal_pairs} of {figure.pairs}"),
                )
                for figure in check.differences
            ),
            note=check.note or "",
        )
    if not compared:
        yield Gap("the comparison of flights", "The report holds none.")
    if evidence is None:
        yield Gap("the flights", _JUDGED_AGAIN)
    elif not evidence.compared_episodes():
        yield Gap("the flights", _NONE_FLOWN)
    else:
        yield from _shown_flights(evidence)


def _shown_flights(evidence: Evidence) -> Iterator[Block]:
    episodes = evidence.compared_episodes()
    for episode in episodes:
        trace = episode.trace
        if trace.track is None or len(trace.position) < 2:
            continue
        with plot_style():
            figure = Figure(figsize=(6.4, 5.2), layout="constrained")
            draw_track_axes(figure.subplots(), trace, trace.track)
            content = _png(figure)
        end = "ended in a crash" if trace.crashed else "ended by its time"
        shade = "gate probability" if trace.probability else "speed, since this driver tells no gate probability"
        caption = f"{episode.driver}: {len(trace.pass_steps)} gates in {trace.duration:.1f} s, {end}. Colour: {shade}."
        yield Picture(content, f"The track from above, {episode.driver}", caption, small=True)
    shown = [
        ShownFlight(
            f"{episode.driver}, environment {episode.trace.env}", f"{episode.driver}.", episode.trace, episode.transform
        )
        for episode in episodes
    ]
    logit = evidence.threshold_logit
    threshold = None if logit is None else 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))
    yield flight_widget(shown, evidence.image_shape, threshold)


def _worst_cases(evidence: Evidence | None) -> Iterator[Block]:
    if evidence is None:
        yield Gap("the inputs", _JUDGED_AGAIN)
    elif not evidence.cases:
        yield Gap("the inputs", "No input was replayed.")
    else:
        for number, case in enumerate(evidence.cases, 1):
            yield _case_picture(number, case, evidence.image_shape)
        yield _case_states(evidence)


def _case_picture(number: int, case: WorstCase, image_shape: tuple[int, int]) -> Picture:
    from matplotlib import colormaps

    rows, columns = image_shape
    image = np.nan_to_num(case.observation[-rows * columns :].reshape(rows, columns)).clip(0, 1)
    pixels = (colormaps["turbo_r"](image)[:, :, :3] * 255).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((columns * _DEPTH_SCALE, rows * _DEPTH_SCALE), Image.Resampling.NEAREST)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    caption = (
        f"{number}. {case.output}[{case.channel}] off by {case.error:.2e}, {_share(case.share)} of its limit: "
        f"{case.check}, {case.where}"
    )
    return Picture(content.getvalue(), f"Depth image of case {number}: near is red, far is blue", caption, small=True)


def _case_states(evidence: Evidence) -> Table:
    rows, columns = evidence.image_shape
    states = [case.observation[: -rows * columns] for case in evidence.cases]
    columns_shown = ("state", *(f"case {number}" for number in range(1, len(states) + 1)))
    return Table(
        "The state that went in with each image",
        columns_shown,
        tuple(
            (Cell(_state_name(evidence, index)), *(Cell(f"{float(state[index]):.4g}") for state in states))
            for index in range(len(states[0]))
        ),
    )


def _state_name(evidence: Evidence, index: int) -> str:
    return f"{index}: {evidence.state_names[index]}" if index < len(evidence.state_names) else str(index)


def _all_checks(report: VerifyReport) -> Table:
    rows = []
    for row, verdict in zip(table_rows(report), report.verdicts, strict=True):
        said = "; ".join(filter(None, [row.compared, *row.reasons]))
        rows.append(
            (
                Cell(row.check),
                Cell(verdict.status.value, tone=TONES[verdict.status]),
                Cell(row.count),
                Cell(row.worst),
                Cell(row.limit),
                Cell(said),
            )
        )
    return Table("Checks", ("check", "verdict", "count", "worst", "limit", "compared"), tuple(rows), numeric=False)


def _facts(report: VerifyReport) -> dict[str, str]:
    subject = report.subject
    facts = {
        "Bundle": f"{subject.bundle} (manifest sha256 {subject.manifest_sha256 or 'unknown'})",
        "Checkpoint": f"{subject.checkpoint} (sha256 {subject.checkpoint_sha256})",
        "Feature file": "none" if subject.dataset is None else f"{subject.dataset} (sha256 {subject.dataset_sha256})",
    }
    facts |= {f"File {name}": f"sha256 {digest}" for name, digest in subject.files.items()}
    # What the flights took is for benchmarks.
    facts |= {f"Environment, {name}": _said(value) for name, value in report.environment.items() if name != "flights"}
    facts |= {f"Option {name}": _said(value) for name, value in report.options.items() if name != "thresholds"}
    return {**facts, "Duration": f"{report.elapsed_s:.1f} s"}


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _share(share: float) -> str:
    return f"{share:.2f}" if math.isfinite(share) else "beyond any share"


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()

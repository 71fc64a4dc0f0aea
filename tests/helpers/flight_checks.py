"""Runs the checks of a flight log alone."""

from contextlib import ExitStack
from dataclasses import dataclass

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.progress import silent
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.artifacts import open_artifacts
from deploy_kit.verify.bundle_and_checkpoint import find_vehicle, pair_bundle
from deploy_kit.verify.dataset import open_dataset
from deploy_kit.verify.flight_log.checks import check_flight_log
from deploy_kit.verify.report import Status, judge


@dataclass
class Judged:
    checks: list
    verdicts: list


def verify(run, log, folder, bundle=None, dataset=None):
    """Run the checks of a log alone."""
    checkpoint = load_checkpoint(run.checkpoint)
    opened = open_bundle(bundle or run.bundle)
    subject = pair_bundle(opened, checkpoint, find_vehicle(checkpoint, TASK_ID, None, opened.contract))
    with ExitStack() as stack:
        data = None if dataset is None else stack.enter_context(open_dataset(dataset, checkpoint.network))
        logged = stack.enter_context(open_flight_log(log))
        artifacts, _ = open_artifacts(subject, torchscript=False)
        checks = check_flight_log(logged, folder / "report-flight.png", subject, artifacts, data, silent)
    return Judged(checks, [judge(check, Thresholds()) for check in checks])


def failures(report):
    return {
        verdict.name.removeprefix("flight-log/"): " | ".join(verdict.reasons)
        for verdict in report.verdicts
        if verdict.status is Status.FAILED and verdict.name.startswith("flight-log/")
    }


def note(report, name):
    return next(check.note for check in report.checks if check.name == f"flight-log/{name}")

"""Verify a bundle against the checkpoint that it claims to come from."""

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

from deploy_kit.bundle.reader import HEADER_PROFILES, HEADERS, Bundle
from deploy_kit.bundle.runners import import_onnxruntime
from deploy_kit.bundle.signature import read_trusted_key
from deploy_kit.errors import OptionError
from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint, load_policy
from deploy_kit.progress import Progress, silent
from deploy_kit.verify.artifacts import Artifacts
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint, NamedVehicle, find_vehicle, pair_bundle
from deploy_kit.verify.certificate import MAX_FEATURE_ROWS, MAX_OBSERVATIONS, certify
from deploy_kit.verify.checks import run_checks
from deploy_kit.verify.dataset import Dataset, open_dataset
from deploy_kit.verify.flight_log.checks import check_flight_log
from deploy_kit.verify.live import LiveTest
from deploy_kit.verify.localisation.diagnosed import diagnosed
from deploy_kit.verify.localisation.diagnosis import diagnose
from deploy_kit.verify.narrow_flights import narrow_header_flights
from deploy_kit.verify.opening import (
    CHANGED,
    attempt,
    manifest_sha256,
    nothing_opened,
    open_for_verification,
    require_something,
    require_truth_outside,
    signature_check,
)
from deploy_kit.verify.options import VerifyOptions
from deploy_kit.verify.outputs.evidence import Evidence
from deploy_kit.verify.outputs.page_file import PageFile
from deploy_kit.verify.policy.verifier import verify_policy
from deploy_kit.verify.processes import live_options, other_processes, with_device
from deploy_kit.verify.recording import environment_of, plain, subject_of, verified_runtimes
from deploy_kit.verify.report import Certificate, Check, FactCheck, NotRun, VerifyReport
from deploy_kit.verify.report_file import REPORT_NAME, UNFINISHED, ReportFile
from deploy_kit.verify.rollouts import DRIVING
from deploy_kit.verify.variant_artifact import variant_flights

__all__ = ["REPORT_NAME", "VerifyOptions", "verify_bundle"]

CERTIFICATE = "certificate/decisions"
"""Name of the check that stands in a report where the certificate could not be made."""


def verify_bundle(options: VerifyOptions, progress: Callable[[Progress], None] = silent) -> VerifyReport:
    """Run all checks of a bundle against its checkpoint and write the report.

    A failed check does not raise: it is in the report, whose `passed` is the overall verdict.

    Args:
        options: what to verify against what, and how.
        progress: told what is being done.

    Raises:
        OptionError: an option is out of range, two contradict each other, or what lies where the report goes is none.
        BundleError: there is no such folder, or nothing of a bundle in it.
        CheckpointError: the checkpoint cannot be read.
        DatasetError: the feature file cannot be read, or was collected with another policy.
        TaskError: the task is unknown, or its environment does not fit the policy.
        FlightLogError: the flight's log cannot be read.
    """
    options.check()
    import_onnxruntime()
    started = time.monotonic()
    with ExitStack() as stack:
        require_something(options.bundle)
        trusted = None if options.trust is None else read_trusted_key(options.trust)
        rank, others = stack.enter_context(other_processes(options))
        options = with_device(options, rank)
        flown, options = live_options(options, rank.count) if options.live else None, options.with_seed()
        path = options.report or options.bundle / REPORT_NAME
        place, page = ReportFile(path, options.bundle), PageFile(path)
        require_truth_outside(options.bundle, options.checkpoint)
        checkpoint = load_policy(options.checkpoint, options.hints)
        if isinstance(checkpoint, PolicyCheckpoint):
            if others is not None:
                raise OptionError(
                    f"{options.checkpoint}: policies of other classes are verified in one process; leave out "
                    "--num-processes, --num-gpus and torchrun"
                )
            return verify_policy(options, checkpoint, progress)
        dataset = None
        if options.feature_file is not None:
            dataset = stack.enter_context(open_dataset(options.feature_file, checkpoint.network))
        log = None if options.flight is None else stack.enter_context(open_flight_log(options.flight))
        live = None if flown is None else stack.enter_context(LiveTest(flown, others))
        if live is not None:
            live.prepare(checkpoint)
        manifest = manifest_sha256(options.bundle)

        def report(checks: list[Check], bundle: Bundle | None, artifacts: Artifacts | None) -> VerifyReport:
            return VerifyReport(
                subject=subject_of(options, manifest, bundle, checkpoint, dataset),
                environment={
                    **environment_of(options, () if artifacts is None else artifacts.providers),
                    "flights": [] if live is None else [dataclasses.asdict(times) for times in live.times],
                },
                options=plain(dataclasses.asdict(options)),
                checks=tuple(checks),
                thresholds=options.thresholds,
                elapsed_s=time.monotonic() - started,
                created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                runtimes=() if artifacts is None else verified_runtimes(options.runtimes, checks),
                replaces=place.replaced(manifest),
            )

        stack.enter_context(place)
        stack.enter_context(page)
        place.begin(report([UNFINISHED], None, None))
        signature = None if trusted is None else signature_check(options.bundle, trusted)
        bundle = open_for_verification(options.bundle, signature)
        if isinstance(bundle, FactCheck):
            found, evidence = report([bundle, *nothing_opened(options)], None, None), Evidence()
        else:
            vehicle = NamedVehicle(None, wanted=False)
            if options.vehicle:
                vehicle = find_vehicle(checkpoint, options.task, options.vehicle_file, bundle.contract)
            subject = pair_bundle(bundle, checkpoint, vehicle)
            checks, artifacts = run_checks(subject, dataset, live, options.replayed, progress)
            for kind, variant in artifacts.variants.items():
                if flown is None:
                    checks.append(NotRun(f"{DRIVING}@{kind}", "--no-live", "--no-live"))
                else:
                    checks += variant_flights(kind, variant, subject, checkpoint, flown, progress)
            for form in (form for form in HEADER_PROFILES if HEADERS[form] in bundle.files):
                checks += narrow_header_flights(form, artifacts, subject, checkpoint, flown, progress)
            checks = checks if signature is None else [signature, *checks]
            if log is not None:
                picture = place.path.with_name(f"{place.path.stem}-flight.png")
                checks += check_flight_log(log, picture, subject, artifacts, dataset, progress)
            if manifest_sha256(options.bundle) != manifest:
                checks.append(CHANGED)
            certificate, unmade = _certificate(subject, dataset)
            found = dataclasses.replace(report([*checks, *unmade], bundle, artifacts), certificate=certificate)
            found = diagnosed(found, partial(diagnose, subject, found.checks))
            evidence = subject.evidence
        place.finish(found)
        page.finish(found, evidence)
    return found


def _certificate(subject: BundleAndCheckpoint, dataset: Dataset | None) -> tuple[Certificate | None, list[Check]]:
    """Return figures of the recorded decisions, the user's or else the golden samples', or the check that lacks them.

    Neither is returned where there are no decisions, or none that can be compared.
    """
    if subject.misfit is not None or subject.contract.gate is None:
        return None, []
    golden, _ = attempt(lambda: subject.bundle.golden)
    if golden is None:
        return None, [NotRun(CERTIFICATE, "golden.npz cannot be read")]

    def work() -> tuple[Certificate | None]:
        kept = None if dataset is None else dataset.kept_samples(MAX_OBSERVATIONS)
        observation = golden.observation[:MAX_OBSERVATIONS] if kept is None else kept.samples.observation
        features = golden.features if dataset is None else dataset.flown_inputs(0, MAX_FEATURE_ROWS)[0]
        return (certify(subject.checkpoint, observation, features),)

    # In a tuple, since None is an answer too.
    found, problem = attempt(work)
    if problem is not None:
        return None, [FactCheck(CERTIFICATE, "largest rounding error of recorded decisions, computed", 1, (problem,))]
    assert found is not None
    return found[0], []

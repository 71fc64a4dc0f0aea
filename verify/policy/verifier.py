"""Verify the bundle of any policy against the checkpoint that it claims to come from."""

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime

from deploy_kit.bundle.policy_reader import PolicyBundle, open_policy_bundle
from deploy_kit.bundle.reader import check_files
from deploy_kit.bundle.signature import read_trusted_key
from deploy_kit.data.reader import FeatureFile, open_feature_file
from deploy_kit.errors import OptionError
from deploy_kit.policy.fingerprint import policy_feature_sha256
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint
from deploy_kit.progress import Progress
from deploy_kit.verify.localisation.diagnosed import diagnosed
from deploy_kit.verify.opening import (
    CHANGED,
    FILES_COMPARED,
    attempt,
    manifest_sha256,
    nothing_opened,
    signature_check,
)
from deploy_kit.verify.options import VerifyOptions
from deploy_kit.verify.outputs.evidence import Evidence
from deploy_kit.verify.outputs.page_file import PageFile
from deploy_kit.verify.policy.checks import run_policy_checks
from deploy_kit.verify.policy.diagnosis import diagnose_policy
from deploy_kit.verify.policy.live import live_checks
from deploy_kit.verify.policy.subject import pair_policy
from deploy_kit.verify.recording import environment_of, plain, subject_of, verified_runtimes
from deploy_kit.verify.report import Check, FactCheck, VerifyReport
from deploy_kit.verify.report_file import REPORT_NAME, UNFINISHED, ReportFile


def verify_policy(
    options: VerifyOptions, checkpoint: PolicyCheckpoint, progress: Callable[[Progress], None]
) -> VerifyReport:
    """Run all checks of a bundle of any policy against its checkpoint and write the report.

    Args:
        options: what to verify against what, and how.
        checkpoint: the truth.
        progress: told what is being done.

    Raises:
        OptionError: an option has no effect on such a policy, or the trusted key cannot be read.
        DatasetError: the feature file cannot be read, or was collected with another policy.
        TaskError: the task is unknown, or its environment does not fit the policy.
    """
    _refuse_options(options)
    trusted = None if options.trust is None else read_trusted_key(options.trust)
    started = time.monotonic()
    with ExitStack() as stack:
        path = options.report or options.bundle / REPORT_NAME
        place, page = ReportFile(path, options.bundle), PageFile(path)
        samples = None
        if options.feature_file is not None:
            samples = stack.enter_context(open_feature_file(options.feature_file))
            require_file_of(samples, checkpoint)
        manifest = manifest_sha256(options.bundle)

        def report(checks: list[Check], bundle: PolicyBundle | None, providers: tuple[str, ...]) -> VerifyReport:
            return VerifyReport(
                subject=subject_of(options, manifest, bundle, checkpoint, samples),
                environment=environment_of(options, providers),
                options=plain(dataclasses.asdict(options)),
                checks=tuple(checks),
                thresholds=options.thresholds,
                elapsed_s=time.monotonic() - started,
                created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                runtimes=verified_runtimes(options.runtimes, checks),
                replaces=place.replaced(manifest),
            )

        stack.enter_context(place)
        stack.enter_context(page)
        place.begin(report([UNFINISHED], None, ()))
        signature = None if trusted is None else signature_check(options.bundle, trusted)
        bundle = signature if signature is not None and signature.problems else _open(options)
        if isinstance(bundle, FactCheck):
            found = report([bundle, *nothing_opened(options)], None, ())
        else:
            subject = pair_policy(bundle, checkpoint)
            checks, artifacts = run_policy_checks(subject, samples, options.hints, options.replayed, progress)
            checks += live_checks(subject, artifacts, options, progress)
            checks = checks if signature is None else [signature, *checks]
            if manifest_sha256(options.bundle) != manifest:
                checks.append(CHANGED)
            found, runtime = report(checks, bundle, artifacts.providers), options.runtimes[0]
            found = diagnosed(found, lambda failed: diagnose_policy(checks, failed, subject, artifacts, runtime))
        place.finish(found)
        page.finish(found, Evidence())
    return found


def require_file_of(samples: FeatureFile, checkpoint: PolicyCheckpoint) -> None:
    """Check that a feature file was collected with this policy.

    Raises:
        DatasetError: it is another policy's.
    """
    samples.require_features(policy_feature_sha256(checkpoint.network), checkpoint.network.spec.feature_size)


def _refuse_options(options: VerifyOptions) -> None:
    for option, given in (("--vehicle", options.vehicle_file), ("--flight", options.flight)):
        if given is not None:
            raise OptionError(f"{option} {given} has no effect on another policy than VisionActorCritic; leave it out")


def _open(options: VerifyOptions) -> PolicyBundle | FactCheck:
    _, problem = attempt(lambda: check_files(options.bundle))
    if problem is not None:
        return FactCheck("bundle/manifest", FILES_COMPARED, 1, (problem,))
    bundle, problem = attempt(lambda: open_policy_bundle(options.bundle))
    if bundle is None:
        return FactCheck("contract/schema", "contract.json, read by its schema", 1, (problem or "",))
    return bundle

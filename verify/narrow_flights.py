"""Flights of C++ headers with narrow weights: as those of the float32 header, under the weights' own profile."""

import dataclasses
from collections.abc import Callable, Iterator

from deploy_kit.bundle.parity import ParityCheck
from deploy_kit.bundle.reader import HEADER_PROFILES
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.progress import Progress
from deploy_kit.verify.artifacts import Artifacts
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.header_checks import header_checks, header_not_flown
from deploy_kit.verify.live import LiveTest
from deploy_kit.verify.outputs.evidence import Evidence
from deploy_kit.verify.report import Check, FlightCheck
from deploy_kit.verify.share import LiveOptions


def narrow_header_flights(
    form: str,
    artifacts: Artifacts,
    subject: BundleAndCheckpoint,
    checkpoint: Checkpoint,
    options: LiveOptions | None,
    progress: Callable[[Progress], None],
) -> Iterator[Check]:
    """Fly a header in PyTorch's shadow and in its place, with its memory, and yield the checks.

    Args:
        form: "cpp-fp16" or "cpp-int8".
        artifacts: what of the bundle could be opened.
        subject: bundle and checkpoint.
        checkpoint: the truth.
        options: of the bundle's own flights, None for none.
        progress: told the steps flown.
    """
    header, flown = artifacts.narrow_headers.get(form), set[str]()
    modes = None if options is None else tuple(mode for mode in options.modes if mode != "contract")
    if options is not None and header is not None and modes:
        # The page shows flights of the graph and of the float32 header.
        apart = dataclasses.replace(subject, evidence=Evidence())
        with LiveTest(dataclasses.replace(options, modes=modes, shares=1, header_alone=True)) as live:
            live.prepare(checkpoint)
            for check in live.run(apart, artifacts.onnx, progress, header):
                if (name := check.name.replace("@cpp", f"@{form}")) in header_checks(form):
                    flown.add(name)
                    yield _renamed(check, name, form)
    yield from header_not_flown(form, modes, flown, header is not None, artifacts.switched_off.get(form))


def _renamed(check: Check, name: str, form: str) -> Check:
    if isinstance(check, FlightCheck):
        return dataclasses.replace(check, name=name, compared=f"{form} drives, against PyTorch from the same seed")
    if isinstance(check, ParityCheck):
        return dataclasses.replace(check, name=name, profile=HEADER_PROFILES[form])
    return dataclasses.replace(check, name=name)

"""Which checks a verification with given options makes: a report that lacks one has not passed.

A report is a file, and a file can be cut: what is missing in it must not count as if it had gone well.
"""

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from deploy_kit.bundle.runtime import runtimes
from deploy_kit.errors import InputError
from deploy_kit.verify.findings import Check, NotRun
from deploy_kit.verify.options import LIVE_MODES

_ARTIFACTS = ("onnx", "torchscript", "safetensors")
_STATIC = (
    "bundle/manifest",
    *(f"contract/{part}" for part in ("schema_version", "inputs", "outputs", "observation", "action", "gate")),
    *(f"contract/{part}" for part in ("timing", "camera", "vehicle", "network", "provenance", "checkpoint")),
    *(f"onnx/{part}" for part in ("operators", "valid", "signature", "opset", "contract", "proof", "provider")),
    *("onnx/features", "torchscript/proof", "torchscript/run", "safetensors/tensors", "golden/stored-outputs"),
)
_DRAWN = ("near", "flight-like", "random", "extreme")
_FLIGHT_LOG = ("file", "bundle", "faults", "timing", "observation", "outputs", "commands", "last-action", "gate")
_SWITCHES = {
    "--no-replay": ("replay/heldout/onnx-head", "replay/kept", "replay/stored-features", "flight-log/distribution"),
    "--no-observations": ("replay/kept", "replay/stored-features", "flight-log/distribution"),
    "--no-torchscript": ("torchscript/run", "replay/*/torchscript", "flight-log/replay/torchscript"),
    "--no-vehicle": ("contract/action", "contract/timing", "contract/vehicle", "contract/camera", "live/contract"),
    "--no-live": ("live/*",),
    "--live-mode": ("live/*",),
    "log import": ("flight-log/commands", "flight-log/last-action", "flight-log/gate", "flight-log/outputs"),
}
"""Which checks an option can switch off, or a log that was imported and lacks something."""

_HELDOUT = ("replay/heldout/onnx-head", "replay/training-rows/onnx-head")
"""The one where the feature file has held-out rows, the other where it has none."""


def held_to_options(checks: tuple[Check, ...], options: dict[str, Any]) -> tuple[Check, ...]:
    """Return a report's checks, with one not run for each that its options imply and that is missing.

    A check that is said to have been switched off, by an option that was not given or that cannot do that, counts as
    not run without an option.

    Args:
        checks: of the report.
        options: of the run, as the report holds them; one that it does not tell counts as not switched off.

    Raises:
        InputError: the options name no runtimes.
    """
    held = tuple(
        replace(check, switch=None) if isinstance(check, NotRun) and not _switched_off(check, options) else check
        for check in checks
    )
    present = {check.name for check in held}
    # What could not be opened stands in the list as one check for all of its kind, and keeps the report from passing.
    groups = {check.name for check in held if isinstance(check, NotRun) and check.switch is None}
    # Without whole observations, one for all artifacts.
    groups |= {check.name for check in held if isinstance(check, NotRun) and check.name == "replay/kept"}
    lacking = [
        name
        for name in _expected(options)
        if name not in present and not any(name.startswith(f"{group}/") for group in groups)
    ]
    if not present.intersection(_HELDOUT):
        lacking.append(_HELDOUT[0])
    return (*held, *(NotRun(name, "missing in the report") for name in lacking))


def _switched_off(check: NotRun, options: dict[str, Any]) -> bool:
    """Return whether an option of the run really switched a check off."""
    switch = check.switch
    if switch is None or not any(fnmatchcase(check.name, pattern) for pattern in _SWITCHES.get(switch, ("*",))):
        return False
    if switch == "log import":
        return options.get("flight") is not None
    if switch == "--live-mode":
        return check.name.removeprefix("live/") not in _live_modes(options)
    return switch.startswith("--no-") and options.get(switch[5:].replace("-", "_")) is False


def _expected(options: dict[str, Any]) -> Iterator[str]:
    """Yield names of checks, also of those that a run lists as switched off."""
    yield from _STATIC
    sets = ("golden", *_DRAWN)
    yield from ("replay/stored-features", *(f"replay/kept/{artifact}" for artifact in _ARTIFACTS))
    yield from (f"replay/{samples}/{artifact}" for samples in (*sets, "search") for artifact in _ARTIFACTS)
    for runtime in _further_runtimes(options):
        yield f"onnx/provider@{runtime}"
        yield from (f"replay/{samples}/onnx@{runtime}" for samples in (*sets, "kept"))
    yield from (f"live/{mode}" for mode in LIVE_MODES)
    if options.get("live") is not False:
        yield "live/reference"
        if "contract" in _live_modes(options) and options.get("vehicle") is not False:
            yield from ("live/contract-commands", "live/contract-accepted")
    if options.get("flight") is not None:
        yield from (f"flight-log/{part}" for part in (*_FLIGHT_LOG, "motion", "distribution"))
        yield from (f"flight-log/replay/{artifact}" for artifact in _ARTIFACTS)


def _live_modes(options: dict[str, Any]) -> list[Any]:
    modes = options.get("live_modes")
    return modes if isinstance(modes, list) else list(LIVE_MODES)


def _further_runtimes(options: dict[str, Any]) -> list[str]:
    """Return the ways to run the graph besides the one that all checks are made with."""
    lists = [options.get(name) for name in ("providers", "optimisation_levels", "onnx_threads")]
    providers, levels, threads = ([] if values is None else values for values in lists)
    kinds = ((providers, str), (levels, str), (threads, int))
    if not all(isinstance(values, list) and all(isinstance(v, kind) for v in values) for values, kind in kinds):
        raise InputError("report.options name no runtimes: run `deploy-kit verify` again")
    return [str(runtime) for runtime in runtimes(providers, levels, threads, bool(options.get("tf32")))[1:]]

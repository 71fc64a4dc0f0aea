"""Which checks a verification with given options makes: a report that lacks one has not passed.

A report is a file, and a file can be cut: what is missing in it must not count as if it had gone well.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from deploy_kit.bundle.reader import HEADER_PROFILES, HEADERS, LEAPP_NAME, STORED
from deploy_kit.bundle.runtime import runtimes
from deploy_kit.bundle.variants import VARIANTS
from deploy_kit.errors import InputError
from deploy_kit.verify.findings import Check, NotRun
from deploy_kit.verify.header_checks import header_checks
from deploy_kit.verify.options import LIVE_MODES

_ARTIFACTS = ("onnx", "torchscript", "safetensors")


@dataclass(frozen=True)
class _Kind:
    """What is always checked of one kind of subject.

    Attributes:
        static: names of checks that replay nothing.
        sets: inputs that every artifact is run on.
        recorded: inputs of the feature file, which the user may do without.
        elsewhere: those of `sets` and `recorded` that further runtimes run too.
        artifacts: what is run.
        live: live modes that the list holds in any case.
        flights: what is judged of flights besides, where any are flown.
        by_contract: the same of flights by the contract alone.
        heldout: alternatives for the check of held-out rows; empty for none.
        heads: what held-out rows are replayed in.
    """

    static: tuple[str, ...]
    sets: tuple[str, ...]
    recorded: tuple[str, ...]
    elsewhere: tuple[str, ...]
    artifacts: tuple[str, ...]
    live: tuple[str, ...]
    flights: tuple[str, ...]
    by_contract: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ("replay/heldout/onnx-head", "replay/training-rows/onnx-head")
    heads: tuple[str, ...] = ("onnx",)


def _names(room: str, parts: str) -> tuple[str, ...]:
    return tuple(f"{room}/{part}" for part in parts.split())


_GRAPH = _names("onnx", "operators valid signature proof provider")
_BUNDLE = (
    *("bundle/manifest", *_GRAPH, "onnx/opset", "onnx/contract", "torchscript/proof", "torchscript/run"),
    *("safetensors/tensors", "golden/stored-outputs"),
    *_names("contract", "schema_version inputs outputs network provenance checkpoint"),
)
_DRAWN = ("near", "flight-like", "random", "extreme")

_RACING = _Kind(
    static=(
        *(*_BUNDLE, "onnx/features", "golden/stored-commands", "replay/stored-features"),
        *_names("contract", "observation action gate timing camera vehicle"),
    ),
    sets=("golden", *_DRAWN, "search"),
    recorded=("kept",),
    elsewhere=("golden", "kept", *_DRAWN),
    artifacts=_ARTIFACTS,
    live=LIVE_MODES,
    flights=("live/reference",),
    by_contract=("live/contract-commands", "live/contract-accepted"),
)
_LEAPP = _Kind(
    static=("leapp/description", "leapp/model", *_GRAPH),
    sets=(*_DRAWN, "search"),
    recorded=("kept",),
    elsewhere=("kept", *_DRAWN),
    artifacts=("onnx",),
    live=LIVE_MODES,
    flights=("live/reference",),
    heldout=(),
)
_ANY_POLICY = _Kind(
    static=(*_BUNDLE, *_names("contract", "kind groups run")),
    sets=("golden", "golden-steps", "sequences", "sequences-steps", "random", "extreme"),
    recorded=(),
    elsewhere=("golden", "sequences", "random", "extreme"),
    artifacts=_ARTIFACTS,
    live=("shadow", "driving"),
    flights=(),
)

_FLIGHT_LOG = _names(
    "flight-log", "file bundle faults timing observation outputs commands last-action gate motion distribution"
) + tuple(f"flight-log/replay/{artifact}" for artifact in _ARTIFACTS)

_SWITCHES = {
    "--no-replay": ("replay/heldout/*-head", "replay/kept", "replay/stored-features", "flight-log/distribution"),
    "--no-observations": ("replay/kept", "replay/stored-features", "flight-log/distribution"),
    "--no-torchscript": ("torchscript/run", "replay/*/torchscript", "flight-log/replay/torchscript"),
    "--no-cpp": ("cpp*/run", "replay/*/cpp*", "flight-log/replay/cpp*", "live/*@cpp*"),
    "--no-vehicle": (*_names("contract", "action timing vehicle camera"), "live/contract", "live/shadow@cpp*-steps"),
    "--no-live": ("live/*",),
    "--live-mode": ("live/*",),
    "LEAPP": ("live/contract",),
    "no head exported": _RACING.heldout,
    "log import": _names("flight-log", "observation commands gate"),
}
"""Which checks an option can switch off, or what the subject lacks by its nature."""


def held_to_options(checks: tuple[Check, ...], options: dict[str, Any], files: Iterable[str] = ()) -> tuple[Check, ...]:
    """Return a report's checks, with one not run for each that its options imply and that is missing.

    A check that is said to have been switched off, by an option that was not given or that cannot do that, counts as
    not run without an option.

    Args:
        checks: of the report.
        options: of the run, as the report holds them; one that it does not tell counts as not switched off.
        files: of the bundle: a C++ header, a variant and LEAPP's description have checks of their own.

    Raises:
        InputError: the options name no runtimes.
    """
    held = tuple(
        replace(check, switch=None) if isinstance(check, NotRun) and not _switched_off(check, options) else check
        for check in checks
    )
    racing = _with_optional(_RACING, frozenset(files))
    # The list itself says of which kind the subject is: one that was cut lacks something of each. A LEAPP export has no
    # manifest; a bundle may hold LEAPP's description.
    bundled = any(check.name == "bundle/manifest" for check in held)
    kinds = (racing, _ANY_POLICY) if bundled else (racing, _LEAPP, _ANY_POLICY)
    lacking = min(([*_lacking(held, kind, options)] for kind in kinds), key=len)
    return (*held, *(NotRun(name, "missing in the report") for name in lacking))


def _with_optional(kind: _Kind, files: frozenset[str]) -> _Kind:
    """Return a kind of subject with what is checked of the files that not every bundle holds."""
    variants = tuple(name for name, file in VARIANTS.items() if file in files)
    headers = tuple(name for name, file in HEADERS.items() if file in files)
    narrow = tuple(name for name in headers if name in HEADER_PROFILES)
    static = [*kind.static, *(f"{name}/graph" for name in variants)]
    static += [f"{name}/{part}" for name in headers for part in ("text", "run")]
    static += ["leapp/description"] if LEAPP_NAME in files else []
    return replace(
        kind,
        static=tuple(static),
        artifacts=(*kind.artifacts, *headers, *(f"{name}{STORED}" for name in narrow), *variants),
        live=(
            *kind.live,
            *(name.removeprefix("live/") for form in headers for name in header_checks(form)),
            *(f"driving@{name}" for name in variants),
        ),
        heads=(*kind.heads, *headers),
    )


def _lacking(held: tuple[Check, ...], kind: _Kind, options: dict[str, Any]) -> Iterator[str]:
    """Yield names of checks that a kind of subject has and the list lacks."""
    present = {check.name for check in held}
    # What could not be opened stands in the list as one check for all of its kind, and keeps the report from passing;
    # so does, without doing that, what the feature file does not hold.
    not_run = [check for check in held if isinstance(check, NotRun)]
    groups = {check.name for check in not_run if check.switch is None}
    groups |= {check.name for check in not_run if check.name.removeprefix("replay/") in kind.recorded}
    for name in _expected(kind, options):
        if name not in present and not any(name.startswith(f"{group}/") for group in groups):
            yield name
    for head in kind.heads if "replay" not in groups else ():
        ways = [name.replace("onnx-head", f"{head}-head") for name in kind.heldout]
        if ways and not present.intersection(ways):
            yield ways[0]


def _expected(kind: _Kind, options: dict[str, Any]) -> Iterator[str]:
    """Yield names of checks, also of those that a run lists as switched off."""
    yield from kind.static
    if options.get("trust") is not None and "bundle/manifest" in kind.static:
        yield "bundle/signature"
    yield from (f"replay/{name}/{artifact}" for name in (*kind.sets, *kind.recorded) for artifact in kind.artifacts)
    for runtime in _further_runtimes(options):
        yield f"onnx/provider@{runtime}"
        yield from (f"replay/{name}/onnx@{runtime}" for name in kind.elsewhere)
    yield from (f"live/{mode}" for mode in kind.live)
    if options.get("live") is not False:
        yield from kind.flights
        if "contract" in _live_modes(options) and options.get("vehicle") is not False:
            yield from kind.by_contract
    if options.get("flight") is not None:
        yield from _FLIGHT_LOG


def _switched_off(check: NotRun, options: dict[str, Any]) -> bool:
    """Return whether an option of the run really switched a check off."""
    switch = check.switch
    if switch is None or not any(fnmatchcase(check.name, pattern) for pattern in _SWITCHES.get(switch, ("*",))):
        return False
    if switch == "log import":
        return options.get("flight") is not None
    if switch == "--live-mode":
        return check.name.removeprefix("live/").partition("@")[0] not in _live_modes(options)
    if not switch.startswith("--"):
        return switch in _SWITCHES
    return switch.startswith("--no-") and options.get(switch[5:].replace("-", "_")) is False


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

"""Opens everything in a bundle that can be run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from deploy_kit.bundle.contract import FEATURES_TENSOR
from deploy_kit.bundle.leapp import leapp_description, leapp_text
from deploy_kit.bundle.reader import (
    BUNDLE_FILES,
    HEADER_PROFILES,
    HEADERS,
    LEAPP_NAME,
    MANIFEST_NAME,
    ONNX_NAME,
    OPTIONAL_FILES,
    SAFETENSORS_NAME,
    STORED,
    TORCHSCRIPT_NAME,
    Bundle,
    BundleFolder,
    is_report,
)
from deploy_kit.bundle.runners import (
    ArtifactError,
    Float32,
    NetworkRunner,
    OnnxRunner,
    Outputs,
    Runner,
    TorchScriptRunner,
)
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.bundle.signature import SIGNATURE_NAMES
from deploy_kit.bundle.subgraph import cut_encoder, cut_head
from deploy_kit.bundle.variants import VARIANTS
from deploy_kit.errors import BundleError, InputError
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.text import one_line
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.cpp_artifact import open_cpp, stored_outputs
from deploy_kit.verify.matrix import provider_check
from deploy_kit.verify.meaning import checkpoint_check, contract_checks
from deploy_kit.verify.opening import FILES_COMPARED, attempt, guarded
from deploy_kit.verify.options import DEFAULT_RUNTIME
from deploy_kit.verify.report import Check, FactCheck, NotRun
from deploy_kit.verify.structure.confinement import unavailable
from deploy_kit.verify.structure.graph import StructureError
from deploy_kit.verify.structure.onnx_file import graph_checks, is_runnable, load_graph
from deploy_kit.verify.structure.proof import prove
from deploy_kit.verify.structure.safetensors_file import tensors_check
from deploy_kit.verify.structure.sandbox import SandboxedModule
from deploy_kit.verify.structure.sandboxed_library import SandboxedLibrary
from deploy_kit.verify.structure.torchscript_file import read_torchscript
from deploy_kit.verify.variant_artifact import open_variant
from deploy_kit.yaml_file import read_yaml

ARTIFACTS = ("onnx", "torchscript", "safetensors")
"""What of every bundle is replayed."""

OPTIONAL_ARTIFACTS = {**HEADERS, **VARIANTS}
"""What is replayed where a bundle has it, and its file."""


@dataclass(frozen=True)
class Artifact:
    """Something that can be run on observations.

    Attributes:
        name: "onnx", "torchscript", "safetensors", "cpp", "fp16", …
        runner: how to run it.
        roles: outputs to compare.
        profile: whose limits judge it; None for the report's.
        truth: what its outputs are held against; None for the checkpoint.
    """

    name: str
    runner: Runner
    roles: tuple[str, ...]
    profile: str | None = None
    truth: Runner | None = None


@dataclass(frozen=True)
class Artifacts:
    """What of a bundle could be opened.

    Attributes:
        observed: artifacts that take observations.
        expected: names of those that the bundle has, opened or not.
        onnx: the shipped graph alone, None if it cannot be loaded.
        heads: parts features → outputs by artifact, None for one that cannot be cut or loaded.
        providers: execution providers that onnxruntime really uses.
        switched_off: option by which the user switched an artifact off, by the artifact's name.
        variants: the graph in narrower arithmetic, by its kind.
        header: the C++ header, built; None if there is none, or it could not be opened.
        narrow_headers: those with narrow weights that could be opened, built.
    """

    observed: tuple[Artifact, ...]
    expected: tuple[str, ...]
    onnx: OnnxRunner | None
    heads: Mapping[str, Runner | None]
    providers: tuple[str, ...]
    switched_off: dict[str, str] = field(default_factory=dict)
    variants: Mapping[str, Runner] = field(default_factory=dict)
    header: SandboxedLibrary | None = None
    narrow_headers: Mapping[str, SandboxedLibrary] = field(default_factory=dict)


def open_artifacts(
    subject: BundleAndCheckpoint, torchscript: bool = True, runtime: Runtime = DEFAULT_RUNTIME, cpp: bool = True
) -> tuple[Artifacts, list[Check]]:
    """Open all artifacts and run the checks that need no input.

    Args:
        subject: bundle, checkpoint, vehicle.
        torchscript: whether TorchScript is to be run.
        runtime: how to run the ONNX graph.
        cpp: whether the C++ header, if there is one, is to be built and run.

    Returns:
        The artifacts, and the static checks, failed ones for what could not be opened among them.
    """
    checks: list[Check] = [manifest_check(subject.bundle)]
    checks += guarded(
        "contract/fields",
        "rebuilt from checkpoint, run and vehicle",
        # One by one, so that what a contract breaks in them is met there.
        (check for part in [subject] for check in contract_checks(part.bundle, part.checkpoint, part.named)),
    )
    opened, problem = attempt(lambda: _open_onnx(subject, checks, runtime))
    if problem is not None:
        checks.append(FactCheck("onnx/read", "read as data", 1, (problem,)))
    onnx, head, encoder = opened or (None, None, None)
    observed: list[Artifact] = []
    if onnx is not None:
        runner = onnx if encoder is None else _with_features(onnx, encoder)
        observed.append(Artifact("onnx", runner, (*subject.roles, FEATURES_TENSOR)))
    for name, open_one in (
        ("torchscript", lambda: _open_torchscript(subject, checks, torchscript)),
        ("safetensors", lambda: _open_safetensors(subject, checks)),
    ):
        artifact, problem = attempt(open_one)
        if problem is not None:
            checks.append(FactCheck(f"{name}/read", "read as data", 1, (problem,)))
        elif artifact is not None:
            observed.append(artifact)
    heads: dict[str, Runner | None] = {"onnx": head}
    optional = tuple(name for name, file in OPTIONAL_ARTIFACTS.items() if file in subject.bundle.files)
    variants: dict[str, Runner] = {}
    header: SandboxedLibrary | None = None
    narrow_headers: dict[str, SandboxedLibrary] = {}
    for form in (form for form in HEADERS if form in optional):
        built, problem = attempt(partial(open_cpp, subject, form, checks, cpp))
        if problem is not None:
            checks.append(FactCheck(f"{form}/read", "read as data", 1, (problem,)))
        heads[form] = None if built is None else built.heads
        if built is None:
            continue
        observed.append(Artifact(form, built.rows, _all_roles(subject), HEADER_PROFILES.get(form)))
        if form == "cpp":
            header = built
        if form in HEADER_PROFILES:
            narrow_headers[form] = built
            truth = stored_outputs(subject, form)
            observed.append(Artifact(f"{form}{STORED}", built.rows, _all_roles(subject), truth=truth))
    proven = onnx is not None and not any(
        check.problems for check in checks if isinstance(check, FactCheck) and check.name.startswith("onnx/")
    )
    for kind in (kind for kind in VARIANTS if kind in optional):
        narrow, problem = attempt(partial(open_variant, subject, kind, checks, runtime, proven))
        if problem is not None:
            checks.append(FactCheck(f"{kind}/read", "read as data", 1, (problem,)))
        if narrow is not None:
            variants[kind] = narrow
            observed.append(Artifact(kind, narrow, subject.roles, kind))
    if LEAPP_NAME in subject.bundle.files:
        checks += guarded("leapp/read", "read as data", (_leapp_check(part) for part in [subject.bundle]))
    stored = tuple(f"{form}{STORED}" for form in HEADER_PROFILES if form in optional)
    headers = (*(form for form in HEADERS if form in optional), *stored)
    wanted = {"torchscript": (torchscript, "--no-torchscript"), **dict.fromkeys(headers, (cpp, "--no-cpp"))}
    return Artifacts(
        tuple(observed),
        (*ARTIFACTS, *optional, *stored),
        onnx,
        heads,
        () if onnx is None else onnx.providers,
        {name: option for name, (run, option) in wanted.items() if not run},
        variants,
        header,
        narrow_headers,
    ), checks


_LEAPP_FACTOR = 4
"""How much longer than ours a description may be that is parsed to say what differs."""


def _leapp_check(bundle: Bundle) -> FactCheck:
    """Return the check that LEAPP's description is the one that contract and graph imply."""
    compared = "each field, and the text to the last character, against what contract and graph imply"
    graph = bundle.read(ONNX_NAME)
    wanted = leapp_description(bundle.contract, graph)
    text = bundle.read(LEAPP_NAME)
    expected = leapp_text(bundle.contract, graph).encode()
    if text == expected:
        return FactCheck("leapp/description", compared, len(wanted), ())
    if len(text) > _LEAPP_FACTOR * len(expected):
        problems: tuple[str, ...] = (f"it has {len(text)} bytes, export writes {len(expected)}: it is another one's",)
        return FactCheck("leapp/description", compared, len(wanted), problems)
    found, problem = attempt(lambda: read_yaml(bundle.path / LEAPP_NAME, BundleError))
    if found is None:
        return FactCheck("leapp/description", compared, len(wanted), (problem or "",))
    problems = tuple(
        f"{name} is not what contract and graph imply" for name in wanted if found.get(name) != wanted[name]
    )
    problems += tuple(f"{name!r} is in no description" for name in found if name not in wanted)
    if not problems:
        # An alias, `true` for 1: another reader of YAML may take something else.
        problems = (
            "it is written otherwise than export writes it, and may be read otherwise; export the bundle again",
        )
    return FactCheck("leapp/description", compared, len(wanted), problems)


def _all_roles(subject: BundleAndCheckpoint) -> tuple[str, ...]:
    """Return the roles of an artifact that gives all outputs, whatever those of the graph are."""
    gate = () if subject.contract.gate is None else ("gate_logit",)
    return ("action", "command", *gate, FEATURES_TENSOR)


def manifest_check(bundle: BundleFolder) -> FactCheck:
    """Return the check that the manifest lists exactly a bundle's files; sizes and hashes were checked on opening."""
    problems = [
        f"the manifest lists {name!r}, which no bundle has"
        for name in sorted({*bundle.files} - {*BUNDLE_FILES, *OPTIONAL_FILES})
    ]
    present = {entry.name for entry in bundle.path.iterdir()}
    problems += [
        f"{name!r} lies in the folder and is not listed"
        for name in sorted(present - {*bundle.files, MANIFEST_NAME, *SIGNATURE_NAMES})
        if not (is_report(name) and (bundle.path / name).is_file())
    ]
    problems += [
        f"{name!r} has a signature's name and is no regular file"
        for name in sorted(present & {*SIGNATURE_NAMES})
        if (bundle.path / name).is_symlink() or not (bundle.path / name).is_file()
    ]
    return FactCheck("bundle/manifest", FILES_COMPARED, len(bundle.files), tuple(problems))


def _open_onnx(
    subject: BundleAndCheckpoint, checks: list[Check], runtime: Runtime
) -> tuple[OnnxRunner | None, OnnxRunner | None, OnnxRunner | None]:
    contract, data = subject.contract, subject.bundle.read(ONNX_NAME)
    try:
        model = load_graph(data, ONNX_NAME)
        checks += graph_checks(model, contract, subject.checkpoint.network, subject.reference.transform)
        if not is_runnable(model):
            raise ArtifactError("not run: onnx/operators says what it holds that could do more than compute")
        runner = OnnxRunner(data, contract, runtime=runtime)
    except ArtifactError as error:
        checks.append(FactCheck("onnx/provider", f"loaded by onnxruntime, {runtime}", 1, (str(error),)))
        return None, None, None
    checks.append(provider_check("onnx/provider", runner, contract))
    head = encoder = None
    many, names = replace(runtime, threads=0), {FEATURES_TENSOR: FEATURES_TENSOR}
    try:
        head = OnnxRunner(cut_head(model), contract, features=True, runtime=many)
        encoder = OnnxRunner(cut_encoder(model), contract, outputs=names, runtime=many)
        problems: tuple[str, ...] = ()
    except ArtifactError as error:
        problems = (str(error),)
    checks.append(FactCheck("onnx/features", "graph falls into inputs → features → outputs", 2, problems))
    return runner, head, encoder


def open_flown_graph(subject: BundleAndCheckpoint, runtime: Runtime = DEFAULT_RUNTIME) -> OnnxRunner:
    """Return the graph alone, for flights beside those of a process that checks it.

    Raises:
        ArtifactError: it cannot be loaded, or could do more than compute.
    """
    data = subject.bundle.read(ONNX_NAME)
    if not is_runnable(load_graph(data, ONNX_NAME)):
        raise ArtifactError("not run: the graph holds what could do more than compute")
    return OnnxRunner(data, subject.contract, runtime=runtime)


def _open_torchscript(subject: BundleAndCheckpoint, checks: list[Check], run: bool) -> Artifact | None:
    name, described = "torchscript/proof", "each operation and weight, read as data, against the checkpoint"
    try:
        file = read_torchscript(subject.bundle.read(TORCHSCRIPT_NAME))
    except StructureError as error:
        checks.append(FactCheck(name, described, 1, (str(error),)))
        return None
    proven = prove(file.graph, subject.contract, subject.checkpoint.network, subject.reference.transform)
    checks.append(FactCheck(name, described, proven.weights, proven.problems))
    if proven.problems:
        return None
    if not run:
        checks.append(NotRun("torchscript/run", "--no-torchscript", "--no-torchscript"))
        return None
    if (reason := unavailable()) is not None:
        checks.append(NotRun("torchscript/run", f"{reason}; --no-torchscript goes without"))
        return None
    try:
        module = SandboxedModule(file.archive)
    except ArtifactError as error:
        checks.append(
            FactCheck(
                "torchscript/run", "loaded by torch where it can neither write nor start anything", 1, (str(error),)
            )
        )
        return None
    checks.append(FactCheck("torchscript/run", "loaded by torch where it can neither write nor start anything", 1, ()))
    return Artifact("torchscript", TorchScriptRunner(module, subject.contract), subject.roles)


def _open_safetensors(subject: BundleAndCheckpoint, checks: list[Check]) -> Artifact | None:
    weights = tensors_check(subject.bundle.read(SAFETENSORS_NAME), subject.checkpoint)
    checks += [weights, checkpoint_check(subject.contract, subject.checkpoint, weights)]
    try:
        rebuilt = load_checkpoint(subject.bundle.safetensors_path).network
    except InputError as error:
        checks.append(FactCheck("safetensors/network", "rebuilt as a policy", 1, (one_line(error),)))
        return None
    gate = subject.contract.gate is not None
    roles = ("action", "gate_logit", FEATURES_TENSOR) if gate else ("action", FEATURES_TENSOR)
    return Artifact("safetensors", NetworkRunner(rebuilt, gate), roles)


def _with_features(graph: Runner, encoder: Runner) -> Runner:
    def run(observation: Float32) -> Outputs:
        return {**graph(observation), **encoder(observation)}

    return run

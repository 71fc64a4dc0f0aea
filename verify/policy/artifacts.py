"""Opens everything in a bundle of any policy that can be run, and makes the checks that need no input."""

from dataclasses import dataclass, field

from deploy_kit.bundle.codec import encode
from deploy_kit.bundle.policy_runners import PolicyModuleRunner, PolicyOnnxRunner, PolicyReference, StepRunner
from deploy_kit.bundle.policy_tensors import ACTIONS, LOGIT
from deploy_kit.bundle.reader import ONNX_NAME, SAFETENSORS_NAME, TORCHSCRIPT_NAME
from deploy_kit.bundle.runners import ArtifactError, open_session
from deploy_kit.bundle.runtime import COMPUTING, Runtime
from deploy_kit.bundle.subgraph import cut
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.errors import InputError
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint, load_policy
from deploy_kit.text import one_line
from deploy_kit.verify.artifacts import manifest_check
from deploy_kit.verify.meaning import checkpoint_check, compare_fields, fields_of
from deploy_kit.verify.opening import attempt
from deploy_kit.verify.policy.sequences import state_outputs_of
from deploy_kit.verify.policy.subject import PolicySubject, implied_contract
from deploy_kit.verify.report import Check, FactCheck, NotRun
from deploy_kit.verify.structure.confinement import unavailable
from deploy_kit.verify.structure.graph import StructureError
from deploy_kit.verify.structure.onnx_file import POLICY_RUNNABLE, is_runnable, load_graph, policy_graph_checks
from deploy_kit.verify.structure.plan_proof import prove_plan
from deploy_kit.verify.structure.safetensors_file import policy_tensors_check
from deploy_kit.verify.structure.sandbox import SandboxedModule
from deploy_kit.verify.structure.torchscript_file import read_torchscript

EXEMPT_PARTS = ("created_utc", "versions")

_LOADED = "loaded by torch where it can neither write nor start anything"


@dataclass(frozen=True)
class PolicyArtifact:
    """Something that can be run step by step.

    Attributes:
        name: "onnx", "torchscript" or "safetensors".
        runner: how to run it.
        roles: outputs to compare.
    """

    name: str
    runner: StepRunner
    roles: tuple[str, ...]


@dataclass
class PolicyArtifacts:
    """What of a bundle could be opened.

    Attributes:
        observed: artifacts that take observations.
        onnx: content of the graph, None if it may not be run.
        head: session of its part features → logit, None if there is none or it cannot be cut.
        providers: execution providers that onnxruntime really uses.
        switched_off: option by which the user switched an artifact off, by the artifact's name.
    """

    observed: list[PolicyArtifact] = field(default_factory=list)
    onnx: bytes | None = None
    head: object = None
    providers: tuple[str, ...] = ()
    switched_off: dict[str, str] = field(default_factory=dict)


def open_policy_artifacts(
    subject: PolicySubject, hints: NetworkHints, runtime: Runtime, *, torchscript: bool
) -> tuple[PolicyArtifacts, list[Check]]:
    """Open all artifacts and run the checks that need no input.

    Args:
        subject: bundle and checkpoint.
        hints: modules that networks of the user's own come from.
        runtime: how to run the ONNX graph.
        torchscript: whether TorchScript is to be run.
    """
    artifacts = PolicyArtifacts(switched_off={} if torchscript else {"torchscript": "--no-torchscript"})
    checks: list[Check] = [manifest_check(subject.bundle), *_contract_checks(subject)]
    for name, open_one in (
        ("onnx", lambda: _open_onnx(subject, artifacts, checks, runtime)),
        ("torchscript", lambda: _open_torchscript(subject, artifacts, checks, torchscript)),
        ("safetensors", lambda: _open_safetensors(subject, artifacts, checks, hints)),
    ):
        _, problem = attempt(open_one)
        if problem is not None:
            checks.append(FactCheck(f"{name}/read", "read as data", 1, (problem,)))
    return artifacts, checks


def _contract_checks(subject: PolicySubject) -> list[Check]:
    found = subject.contract
    try:
        expected = implied_contract(subject.bundle, subject.checkpoint, subject.bundle.files[SAFETENSORS_NAME])
    except InputError as error:
        return [FactCheck("contract/fields", "rebuilt from checkpoint and run", 1, (one_line(error),))]
    theirs, ours = encode(found), encode(expected)
    return [
        compare_fields(
            f"contract/{part}",
            "every field against checkpoint and run",
            list(fields_of(part, theirs[part], ours[part])),
        )
        for part in ours
        if part not in EXEMPT_PARTS
    ]


def _open_onnx(subject: PolicySubject, artifacts: PolicyArtifacts, checks: list[Check], runtime: Runtime) -> None:
    data = subject.bundle.read(ONNX_NAME)
    try:
        model = load_graph(data, ONNX_NAME)
        checks += policy_graph_checks(model, subject.contract, subject.checkpoint.network)
        if not is_runnable(model, POLICY_RUNNABLE):
            raise ArtifactError("not run: onnx/operators says what it holds that could do more than compute")
        runner = PolicyOnnxRunner(data, subject.contract, runtime)
    except ArtifactError as error:
        checks.append(FactCheck("onnx/provider", f"loaded by onnxruntime, {runtime}", 1, (str(error),)))
        return
    checks.append(policy_provider_check("onnx/provider", runner))
    artifacts.onnx, artifacts.providers = data, runner.providers
    roles, problems = subject.roles, []
    try:
        runner = PolicyOnnxRunner(data, subject.contract, runtime, features=True)
        roles = (*roles, FEATURES_TENSOR)
        if (spec := next((spec for spec in subject.contract.outputs if spec.role == LOGIT), None)) is not None:
            part = cut(model, [FEATURES_TENSOR], [spec.name])
            artifacts.head = open_session(part.SerializeToString(), runtime)
    except ArtifactError as error:
        problems.append(str(error))
    described = "the graph gives its features, and the logit depends on them alone"
    checks.append(FactCheck("onnx/features", described, 2, tuple(problems)))
    artifacts.observed.append(PolicyArtifact("onnx", runner, roles))


def policy_provider_check(name: str, runner: PolicyOnnxRunner) -> FactCheck:
    """Return the check that a graph's arithmetic runs on the provider that was asked for, operator by operator.

    Args:
        name: of the check.
        runner: the graph.
    """
    wanted = runner.runtime.execution_provider
    compared = f"each operator runs on {wanted}, as asked for ({runner.runtime})"
    try:
        found = runner.executed()
    except ArtifactError as error:
        return FactCheck(name, compared, 1, (str(error),))
    problems = [
        f"{operator} ran on {provider}"
        for provider, operators in sorted(found.items())
        for operator in sorted(operators)
        if provider != wanted and operator.startswith(COMPUTING)
    ]
    if not found.get(wanted):
        problems.append(f"nothing ran on {wanted}")
    return FactCheck(name, compared, sum(sum(counts.values()) for counts in found.values()), tuple(problems))


def _open_torchscript(subject: PolicySubject, artifacts: PolicyArtifacts, checks: list[Check], run: bool) -> None:
    name, described = "torchscript/proof", "each operation and weight, read as data, against the checkpoint"
    network = subject.checkpoint.network
    try:
        file = read_torchscript(subject.bundle.read(TORCHSCRIPT_NAME))
    except StructureError as error:
        checks.append(FactCheck(name, described, 1, (str(error),)))
        return
    proven = prove_plan(file.graph, network.plan(), network.head if subject.contract.head is not None else None)
    checks.append(FactCheck(name, described, proven.weights, proven.problems))
    if proven.problems:
        return
    if not run:
        checks.append(NotRun("torchscript/run", "--no-torchscript", "--no-torchscript"))
        return
    if (reason := unavailable()) is not None:
        checks.append(NotRun("torchscript/run", f"{reason}; --no-torchscript goes without"))
        return
    try:
        module = SandboxedModule(file.archive)
    except ArtifactError as error:
        checks.append(FactCheck("torchscript/run", _LOADED, 1, (str(error),)))
        return
    checks.append(FactCheck("torchscript/run", _LOADED, 1, ()))
    runner = PolicyModuleRunner(module, subject.contract)
    artifacts.observed.append(PolicyArtifact("torchscript", runner, subject.roles))


def _open_safetensors(
    subject: PolicySubject, artifacts: PolicyArtifacts, checks: list[Check], hints: NetworkHints
) -> None:
    weights = policy_tensors_check(subject.bundle.read(SAFETENSORS_NAME), subject.checkpoint)
    checks += [weights, checkpoint_check(subject.contract, subject.checkpoint, weights)]
    try:
        rebuilt = load_policy(subject.bundle.safetensors_path, NetworkHints(extensions=hints.extensions))
    except InputError as error:
        checks.append(FactCheck("safetensors/network", "rebuilt as a policy", 1, (one_line(error),)))
        return
    if not isinstance(rebuilt, PolicyCheckpoint):
        checks.append(FactCheck("safetensors/network", "rebuilt as a policy", 1, ("it is a VisionActorCritic",)))
        return
    head = subject.contract.head is not None
    outputs = state_outputs_of(subject.contract)
    roles = (ACTIONS, *([LOGIT] if head else []), *outputs, FEATURES_TENSOR)
    runner = PolicyReference(rebuilt.network, outputs, head=head)
    artifacts.observed.append(PolicyArtifact("safetensors", runner, roles))

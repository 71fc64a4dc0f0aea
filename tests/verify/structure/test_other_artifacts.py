"""TorchScript and safetensors as data, and the process that cannot write."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from deploy_kit.bundle.graph_options import graph_options_of
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.export.graph import DeployedPolicy
from deploy_kit.export.torchscript import _Outputs
from deploy_kit.files import file_sha256
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.artifacts import manifest_check
from deploy_kit.verify.structure import sandbox
from deploy_kit.verify.structure.confinement import landlock_version, unavailable
from deploy_kit.verify.structure.graph import StructureError
from deploy_kit.verify.structure.proof import prove
from deploy_kit.verify.structure.safetensors_file import compare_tensors, tensors_check
from deploy_kit.verify.structure.sandbox import SandboxedModule
from deploy_kit.verify.structure.torchscript_file import read_torchscript
from helpers.bundles import copy_bundle

TRANSFORM = ActionTransform((1.0,) * 4, (0.0,) * 4)


@pytest.fixture(scope="module")
def bundle(run):
    return open_bundle(run.bundle)


def rebuilt(data, change):
    """Return the archive with its parts changed: `change` gets and may alter {name: bytes}."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def code(old, new):
    def change(parts):
        name = next(name for name in parts if name.endswith(".py"))
        assert old in parts[name].decode()
        parts[name] = parts[name].decode().replace(old, new, 1).encode()

    return change


def add(name, content=b"x"):
    return lambda parts: parts.update({name: content})


def next_weight(parts):
    values = np.frombuffer(parts["policy/constants/4"], np.float32).copy()
    values[0] += np.float32(1e-4)
    parts["policy/constants/4"] = values.tobytes()


RETURN = "    return ("

FORGED = {
    "writes a file": (code(RETURN, "    _9 = torch.save(state, depth)\n" + RETURN), r"torch\.save, which is not on"),
    "text": (code(RETURN, '    _9 = torch.relu("/a")\n' + RETURN), "characters"),
    "comment": (code(RETURN, "    # a\n" + RETURN), "characters"),
    "condition": (code(RETURN, "    if bool(state):\n      pass\n" + RETURN), "which is not on the list"),
    "loop": (code(RETURN, "    while True:\n      pass\n" + RETURN), "which is not on the list"),
    "assignment twice": (code("input1 = ", "input0 = "), "which is not on the list"),
    "other namespace": (code("torch.sub(", "ops.prim.sub("), "which is not on the list"),
    "random": (code(RETURN, "    _9 = torch.rand_like(state)\n" + RETURN), "rand_like"),
    "training batch norm": (
        code(RETURN, "    _9 = torch.batch_norm(state, state, state, state, state, True, 0.1, 0.1, True)\n" + RETURN),
        "in training mode",
    ),
    "another method": (code("  def forward", "  def other(self):\n    return self\n  def forward"), "which is not on"),
    "parameters": (add("policy/data/0", b"\0" * 4), "data/0, which nothing refers to"),
    "foreign entry": (add("policy/extra/run.sh"), "is not on the list"),
    "outside": (add("policy/../../x"), "is not on the list"),
    "second code": (add("policy/code/__torch__/a.py", b"def a(x: Tensor) -> Tensor:\n  return x\n"), "classes alone"),
    "words in quotes": (code(RETURN, '    _9 = torch.relu("state")\n' + RETURN), "uses 'state'|uses \"'state'\""),
    "same name": (add("POLICY/data.pkl"), "twice"),
    "callable in the table": (add("policy/data.pkl", b"\x80\x02cos\nsystem\n."), "refers to os system"),
    "callable in the constants": (
        add("policy/constants.pkl", b"\x80\x02cbuiltins\neval\n."),
        "refers to builtins eval",
    ),
    "code after the end": (lambda p: p.update({"policy/data.pkl": p["policy/data.pkl"] + b"."}), "after its end"),
    "cut off": (lambda p: p.pop("policy/constants.pkl"), "has no constants.pkl"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_torchscript_is_refused_unread(bundle, name):
    change, problem = FORGED[name]
    with pytest.raises(StructureError, match=problem):
        read_torchscript(rebuilt(bundle.read("policy.pt"), change))


def unfrozen(network, path, contract):
    """A module as torch.jit.trace gives it, with its parameters in place."""
    policy = DeployedPolicy(network, graph_options_of(contract, network, TRANSFORM))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        torch.jit.save(torch.jit.trace(_Outputs(policy).eval(), policy.example_inputs()), path)
    return path.read_bytes()


def test_a_module_that_was_not_frozen_is_proven_and_runs(bundle, run, other_run, tmp_path):
    data = unfrozen(run.network, tmp_path / "policy.pt", bundle.contract)
    file = read_torchscript(data)
    proven = prove(file.graph, bundle.contract, run.network, TRANSFORM)
    assert proven.problems == ()
    assert proven.weights >= 16
    assert len(prove(file.graph, bundle.contract, other_run.network, TRANSFORM).problems) >= 16
    observation = torch.from_numpy(bundle.golden.observation)
    state, depth = (part.numpy() for part in run.network.split(observation))
    np.testing.assert_allclose(SandboxedModule(file.archive)([state, depth])[0], bundle.golden.action, atol=1e-5)


def last_weight(parts):
    name = max((name for name in parts if "/data/" in name), key=lambda name: int(name.rsplit("/", 1)[1]))
    values = np.frombuffer(parts[name], np.float32).copy()
    values[0] = np.nextafter(values[0], np.float32(9))
    parts[name] = values.tobytes()


def source_of(parts, kind):
    return next(name for name in parts if name.endswith(".py") and f"class {kind}(".encode() in parts[name])


def in_code(kind, old, new):
    def change(parts):
        name = source_of(parts, kind)
        assert old in parts[name].decode()
        parts[name] = parts[name].decode().replace(old, new, 1).encode()

    return change


UNFROZEN = {
    "weight": (last_weight, "differs in 1 of"),
    "hook": (
        in_code("DeployedPolicy", "  def forward", "  __forward_hooks__ = []\n  def forward"),
        "is not on the list",
    ),
    "state": (
        in_code("DeployedPolicy", "  def forward", "  def __setstate__(self, a: Tensor):\n    return a\n  def forward"),
        "is not on the list",
    ),
    "no end": (
        in_code("_Outputs", "(policy).forward(state, depth, )", "(self).forward(state, depth, )"),
        "more than 20 deep",
    ),
    "modules swapped": (
        in_code("DeployedPolicy", "actor = self.actor", "actor = self.aux_decoder"),
        "differs|has shape",
    ),
    "missing code": (lambda parts: parts.pop(source_of(parts, "Flatten")), "is missing"),
}


@pytest.mark.parametrize("name", UNFROZEN)
def test_wrong_module_that_was_not_frozen_is_named(bundle, run, tmp_path, name):
    change, problem = UNFROZEN[name]
    data = rebuilt(unfrozen(run.network, tmp_path / "policy.pt", bundle.contract), change)
    with pytest.raises(StructureError, match=problem):
        problems = prove(read_torchscript(data).graph, bundle.contract, run.network, TRANSFORM).problems
        raise StructureError("; ".join(problems) or "proven")


def test_no_archive_is_refused():
    with pytest.raises(StructureError, match="not a readable TorchScript archive"):
        read_torchscript(b"PK\x03\x04 cut off")


WRONG = {
    "weight": (next_weight, r"stem\.0\.weight, batch norm folded differs in 1 of 36"),
    "order of outputs": (code("return (_2, _3)", "return (_3, _2)"), "differs|has shape"),
    "left-over": (code(RETURN, "    _9 = torch.relu(state)\n" + RETURN), "makes _9, which nothing reads"),
    "slope": (code("leaky_relu(input1)", "leaky_relu(input1, 0.2)"), "has alpha"),
    "transposed convolution": (code("[1, 1], False", "[1, 1], True"), "arguments that are not on the list"),
    "scale of a sum": (code("torch.add(_0, _1)", "torch.add(_0, _1, 2)"), "arguments that are not on the list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_torchscript_is_named(bundle, run, name):
    change, problem = WRONG[name]
    data = rebuilt(bundle.read("policy.pt"), change)
    with pytest.raises(StructureError, match=problem):
        problems = prove(read_torchscript(data).graph, bundle.contract, run.network, TRANSFORM).problems
        raise StructureError("; ".join(problems) or "proven")


# The process that cannot write


def test_landlock_is_here():
    assert landlock_version() >= 3, "these tests need Linux 6.2"
    assert unavailable() is None


def test_restricted_process_cannot_write_or_start_programs(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    script = (
        "import os, socket, subprocess, sys, threading, resource\n"
        "from deploy_kit.verify.structure import confinement\n"
        "confinement.confine_files()\n"
        "import numpy as np, torch\n"
        "confinement.confine_calls()\n"
        "def tries(name, action):\n"
        "    try:\n        action()\n"
        "    except (OSError, ValueError, MemoryError):\n        print(name, 'refused')\n"
        "kept, folder = sys.argv[1], os.path.dirname(sys.argv[1])\n"
        "tries('write', lambda: open(kept, 'w'))\n"
        "tries('append', lambda: open(kept, 'a'))\n"
        "tries('truncate', lambda: os.truncate(kept, 0))\n"
        "tries('create', lambda: open(folder + '/new', 'w'))\n"
        "tries('remove', lambda: os.remove(kept))\n"
        "tries('rename', lambda: os.rename(kept, kept + '2'))\n"
        "tries('folder', lambda: os.mkdir(folder + '/d'))\n"
        "tries('link', lambda: os.symlink(kept, folder + '/l'))\n"
        "tries('mode', lambda: os.chmod(kept, 0o777))\n"
        "tries('times', lambda: os.utime(kept, (0, 0)))\n"
        "tries('run', lambda: subprocess.run(['/bin/true']))\n"
        "tries('fork', lambda: os.fork() or os._exit(0))\n"
        "tries('signal', lambda: os.kill(os.getppid(), 0))\n"
        "tries('socket', lambda: socket.socket())\n"
        "tries('local socket', lambda: socket.socketpair())\n"
        "tries('limits', lambda: resource.setrlimit(resource.RLIMIT_CPU, (9, 9)))\n"
        "tries('memory', lambda: np.ones(5 << 30, np.uint8))\n"
        "thread = threading.Thread(target=lambda: print('a thread'))\n"
        "thread.start(), thread.join()\n"
        "print(float((torch.ones(9, 9) @ torch.ones(9, 9))[0, 0]), open(kept).read())\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(kept)], capture_output=True, text=True, check=True)
    names = ("write", "append", "truncate", "create", "remove", "rename", "folder", "link", "mode", "times", "run")
    names += ("fork", "signal", "socket", "local socket", "limits", "memory")
    assert result.stdout.splitlines() == [*(f"{name} refused" for name in names), "a thread", "9.0 mine"]
    assert os.listdir(tmp_path) == ["kept"]


def test_a_process_that_takes_too_long_is_ended(bundle, monkeypatch):
    module = SandboxedModule(read_torchscript(bundle.read("policy.pt")).archive)
    rows = bundle.golden.observation
    state, depth = rows[:, :16].copy(), rows[:, 16:].reshape(-1, 1, 24, 32).copy()
    first = module([state, depth])[0]
    process = module._process
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    with pytest.raises(ArtifactError, match="has ended, or took longer"):
        module([state, depth])
    assert process.poll() is not None
    monkeypatch.undo()
    # The next question starts another.
    assert np.array_equal(module([state, depth])[0], first)


def test_module_gives_what_the_network_gives(bundle, run):
    first, second = (SandboxedModule(read_torchscript(bundle.read("policy.pt")).archive) for _ in range(2))
    observation = torch.from_numpy(bundle.golden.observation)
    state, depth = (part.numpy() for part in run.network.split(observation))
    for module in (first, second, first):
        action, logit = module([state, depth])
        np.testing.assert_allclose(action, bundle.golden.action, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(logit, bundle.golden.gate_logit, rtol=1e-5, atol=1e-5)
    with pytest.raises(ArtifactError, match="torch cannot run the module"):
        first([state])
    with pytest.raises(ArtifactError, match="torch cannot load the module"):
        SandboxedModule(b"no archive")
    assert first([state, depth])[0].shape == action.shape


# safetensors


def edited_record(metadata, **changes):
    return json.dumps({**json.loads(metadata["deploy_kit"]), **changes})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t, m: t["critic.0.bias"].add_(1e-6), r"critic\.0\.bias differs in 8 of 8"),
        (lambda t, m: t.update(std=torch.ones(4)), "std is not in the checkpoint"),
        (lambda t, m: t.pop("critic.0.bias"), r"critic\.0\.bias is missing"),
        (lambda t, m: t.update({"actor.0.bias": t["actor.0.bias"].double()}), r"actor\.0\.bias is torch\.float64"),
        (lambda t, m: m.update(note="x"), "metadata 'note' is not on the list"),
        (lambda t, m: m.update(deploy_kit="{}"), "the record's activation is None"),
        (lambda t, m: m.update(deploy_kit=edited_record(m, iteration=8)), "the record's iteration is 8, expected 7"),
        (lambda t, m: m.update(deploy_kit=edited_record(m, calibration=None)), "the record's calibration is None"),
    ],
)
def test_all_that_safetensors_holds_is_compared(bundle, run, change, problem):
    checkpoint = load_checkpoint(run.checkpoint)
    data = bundle.read("policy.safetensors")
    assert tensors_check(data, checkpoint).problems == ()
    tensors = safetensors.torch.load(data)
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    change(tensors, metadata)
    (found, *_) = tensors_check(safetensors.torch.save(tensors, metadata), checkpoint).problems
    assert re.search(problem, found)


def test_tensors_are_compared_bit_by_bit():
    ours = {"weight": torch.tensor([0.0, 1.0]), "count": torch.tensor(3), "none": torch.tensor([math.nan])}
    assert list(compare_tensors({name: tensor.clone() for name, tensor in ours.items()}, ours)) == []
    (problem,) = compare_tensors({**ours, "weight": torch.tensor([-0.0, 1.0])}, ours)
    assert problem == "weight differs in 1 of 2 values, by up to 0"
    (problem,) = compare_tensors({**ours, "count": torch.tensor(4)}, ours)
    assert problem == "count differs in 1 of 1 values, by up to 1"


# The manifest


def test_file_that_no_bundle_has_is_named(run, tmp_path):
    folder = copy_bundle(run.bundle, tmp_path / "bundle")
    for name in ("report.html", "report-cuda.json", "report-cuda.xml"):
        (folder / name).touch()
    for name in ("report.so", "reporter.py", "report-a.b.json"):
        (folder / name).touch()
        assert manifest_check(open_bundle(folder)).problems == (f"{name!r} lies in the folder and is not listed",)
        (folder / name).unlink()
    (folder / "weights.bin").write_bytes(b"x")
    check = manifest_check(open_bundle(folder))
    assert check.problems == ("'weights.bin' lies in the folder and is not listed",)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["weights.bin"] = {"sha256": file_sha256(folder / "weights.bin"), "size": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    check = manifest_check(open_bundle(folder))
    assert check.problems == ("the manifest lists 'weights.bin', which no bundle has",)


@pytest.mark.parametrize("name", ["manifest.json.sig", "model.sig"])
def test_what_has_a_signatures_name_is_a_file(shared_bundle, bundle_copy, name):
    (bundle_copy / name).write_bytes(b"x")
    assert manifest_check(open_bundle(bundle_copy)).problems == ()
    (bundle_copy / name).unlink()
    (bundle_copy / name).symlink_to(shared_bundle.path / "policy.onnx")
    wanted = (f"{name!r} has a signature's name and is no regular file",)
    assert manifest_check(open_bundle(bundle_copy)).problems == wanted
    (bundle_copy / name).unlink()
    (bundle_copy / name).mkdir()
    assert manifest_check(open_bundle(bundle_copy)).problems == wanted

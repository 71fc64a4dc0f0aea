"""The network of the user's own in docs/policies.md: it is read, gets a head, and goes through export and verify."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from deploy_kit.errors import CheckFailedError, OptionError
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy import extensions
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint, load_policy, save_policy
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policies.md"


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- network: .*? -->\n\n```python\n(.*?)```\n\n<!-- /network -->", text, re.DOTALL)
    (tmp_path / "own_network_of_a_page.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(extensions, "_REGISTERED", {})
    monkeypatch.delitem(sys.modules, "own_network_of_a_page", raising=False)
    return "own_network_of_a_page"


def write_checkpoint(folder: Path) -> Path:
    shapes = {"robot": (8, 5), "goal": (8, 3), "last": (2, 8)}
    generator = torch.Generator().manual_seed(0)
    model = {f"{name}.weight": torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    model |= {f"{name}.bias": torch.randn(shape[0], generator=generator) for name, shape in shapes.items()}
    torch.save({"model": model, "optimizer": {}}, folder / "mine.pt")
    return folder / "mine.pt"


def test_the_documented_network_is_verified_with_a_head(tmp_path, module):
    hints = NetworkHints(extensions=(module,))
    source = load_policy(write_checkpoint(tmp_path), hints)
    assert isinstance(source, PolicyCheckpoint)
    assert source.network.spec.kind == "Towers"
    save_policy(tmp_path / "head" / "mine.pt", source, torch.nn.Linear(8, 1))
    checkpoint = tmp_path / "head" / "mine.pt"
    bundle = export_bundle(ExportOptions(checkpoint, tmp_path / "bundle", use_auxiliary_head=True, hints=hints))
    report = verify_bundle(
        VerifyOptions(bundle, checkpoint, replay=False, live=False, torchscript=False, hints=hints, random_rows=32)
    )
    assert report.passed
    assert report.verdict("replay/random/safetensors").status == "passed"


def test_a_plan_that_differs_from_the_network_is_not_published(tmp_path, module, monkeypatch):
    hints = NetworkHints(extensions=(module,))
    checkpoint = write_checkpoint(tmp_path)
    load_policy(checkpoint, hints)
    policy = sys.modules[module].TowersPolicy
    monkeypatch.setattr(policy, "act", lambda self, given, state: self.wrong(given))
    monkeypatch.setattr(
        policy,
        "wrong",
        lambda self, given: (
            self.network.last(features := torch.tanh(self.network.robot(given["robot"]))), features, (),
        ),
        raising=False,
    )  # fmt: skip
    with pytest.raises(CheckFailedError, match=r"replay/golden/onnx: .* nothing was published"):
        export_bundle(ExportOptions(checkpoint, tmp_path / "bundle", hints=hints))


def test_a_module_that_is_not_there_is_told(tmp_path):
    with pytest.raises(OptionError, match="--extension no_such_module: module 'no_such_module' is not found"):
        load_policy(write_checkpoint(tmp_path), NetworkHints(extensions=("no_such_module",)))


def test_an_installed_entry_point_is_found(tmp_path, module, monkeypatch):
    class Point:
        name = "towers"

        def load(self):
            builder = importlib.import_module(module).BUILDER
            extensions._REGISTERED.clear()  # known by the entry point alone
            return builder

    asked = []
    monkeypatch.setattr(extensions, "entry_points", lambda group: asked.append(group) or [Point()])
    assert load_policy(write_checkpoint(tmp_path)).network.spec.kind == "Towers"
    assert asked == ["deploy_kit.networks"]

"""Where a wrong bundle first differs. Likely causes are held by the catalogue of traps."""

import numpy as np
import onnx
import pytest
import torch

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.verify.flight_like import flight_like_samples
from deploy_kit.verify.localisation import diagnosis
from deploy_kit.verify.localisation.layers import first_difference, graph_model, graph_tensors, network_layers
from deploy_kit.verify.report import VerifyReport
from deploy_kit.verify.structure.graph import onnx_graph
from deploy_kit.verify.structure.torchscript_file import read_torchscript
from deploy_kit.verify.table import format_table
from deploy_kit.verify.verifier import verify_bundle
from helpers.mutations import change_weight, largest_off, mutate_graph

LAYERS = {
    "stem.0.bias": "stem.0",
    "stem.3.bias": "stem.3",
    "stem.7.bias": "stem.7",
    "state_enc.weight": "state_enc",
    "actor.0.bias": "actor.0",
    "actor.2.weight": "actor.2",
    "actor.4.bias": "actor.4",
    "aux_decoder.weight": "aux_decoder",
}


@pytest.fixture(scope="module")
def bundle(run):
    return open_bundle(run.bundle)


@pytest.fixture(scope="module")
def rows(bundle):
    return flight_like_samples(bundle.contract, 8, 0).observation


@pytest.fixture
def model(bundle):
    return onnx.load(bundle.onnx_path)


def test_a_right_graph_has_every_layer(run, bundle, rows, model):
    tensors = graph_tensors(model, bundle.contract, rows)
    assert first_difference(run.network, rows, tensors) is None
    layers = network_layers(run.network, rows, torch.float32)
    for name in (*LAYERS.values(), "features", "the state's normaliser"):
        nearest = min(
            np.abs(value - layers[name]).max() for value in tensors.values() if value.shape == layers[name].shape
        )
        assert nearest < 1e-4, name


@pytest.mark.parametrize("weight", LAYERS)
@pytest.mark.parametrize("artifact", ["onnx", "torchscript"])
def test_the_first_layer_that_differs_is_named(run, bundle, rows, model, weight, artifact):
    change_weight(model, weight, lambda values: largest_off(values, 0.1))
    if artifact == "torchscript":
        # As a TorchScript file is rebuilt once it is read.
        model = graph_model(onnx_graph(model), bundle.contract)
    found = first_difference(run.network, rows, graph_tensors(model, bundle.contract, rows))
    assert found.layer == LAYERS[weight]
    assert found.of_torch < 1e-4 < found.of_artifact
    assert found.error == pytest.approx(found.of_artifact, rel=0.01)


def test_a_torchscript_file_is_looked_into_without_running_it(run, bundle, rows):
    graph = read_torchscript(bundle.read("policy.pt")).graph
    assert (
        first_difference(run.network, rows, graph_tensors(graph_model(graph, bundle.contract), bundle.contract, rows))
        is None
    )


def test_a_diagnosis_is_in_report_and_table(run, tmp_path):
    wrong = mutate_graph(
        run, tmp_path, lambda model: change_weight(model, "actor.0.bias", lambda v: largest_off(v, 0.1))
    )
    report = verify_bundle(wrong.verify())
    (found,) = report.diagnosis
    assert (found.part, found.layer) == ("onnx", "actor.0")
    assert found.error == pytest.approx(0.1, rel=0.01)
    assert found.cause.startswith("weights were changed: actor.0.bias (1 of 16 values)")
    assert "so PyTorch is right" in found.cause
    assert VerifyReport.from_json(report.to_json()) == report
    assert "actor.0 is the first layer that differs" in " ".join(format_table(report).split())


def test_a_right_bundle_has_no_diagnosis(run, tmp_path):
    assert verify_bundle(run.verify(report=tmp_path / "r.json")).diagnosis == ()


def test_a_diagnosis_that_cannot_be_made_says_why(run, tmp_path, monkeypatch):
    def broken(*_):
        raise ArithmeticError("no cause")

    monkeypatch.setattr(diagnosis, "looked_into", broken)
    wrong = mutate_graph(run, tmp_path, lambda model: change_weight(model, "actor.4.bias", largest_off))
    report = verify_bundle(wrong.verify(search_evaluations=64))
    assert not report.passed
    assert [str(found) for found in report.diagnosis] == ["diagnosis: could not be made: ArithmeticError: no cause"]

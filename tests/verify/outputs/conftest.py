"""Reports with one check of each kind, also with names that are not meant well."""

import numpy as np
import pytest

from deploy_kit.bundle.parity import OutputSemantics, ParityComparison
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.flight.paired import PairedDifference
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.report import FactCheck, FlightCheck, NotRun, Subject, VerifyReport

MEANING = OutputSemantics(
    ("thrust", "x", "y", "z"),
    ("m/s²", "rad/s", "rad/s", "rad/s"),
    ActionTransform((10.0, 6.0, 6.0, 6.0), (10.0, 0.0, 0.0, 0.0)),
    0.0,
)


def parity(error=0.0, name="replay/kept/onnx", where="row", rows=20):
    rng = np.random.default_rng(0)
    action, logit = rng.standard_normal((rows, 4)), rng.standard_normal((rows, 1))
    comparison = ParityComparison(name, "recorded inputs", ("action", "gate_logit"), MEANING)
    candidate = {"action": action.copy(), "gate_logit": logit}
    candidate["action"][7, 1] += error
    comparison.add({"action": action, "command": MEANING.transform.apply(action), "gate_logit": logit}, candidate)
    return comparison.result(lambda row: f"{where} {row}")


def flights(shift=0.0):
    gates = np.array([6.0, 7.0, 5.0, 8.0] * 8)
    figures = (
        PairedDifference.of("gates", "1", gates, gates + shift),
        PairedDifference.of("speed", "m/s", gates / 2, gates / 2 + 0.01),
    )
    return FlightCheck("live/driving", "onnxruntime drives", figures, {"episodes": 32}, {"episodes": 32}, True)


@pytest.fixture
def make_report():
    def make(*checks, name="b"):
        return VerifyReport(
            subject=Subject(name, "0" * 64, {"policy.onnx": "1" * 64}, f"{name}.pt", "2" * 64),
            environment={"deploy_kit": "1.2.3", "providers_used": ["CPUExecutionProvider"]},
            options={"seed": 4},
            checks=checks,
            thresholds=Thresholds(),
            elapsed_s=1.5,
            created_utc="2026-01-01T00:00:00+00:00",
        )

    return make


@pytest.fixture
def failing(make_report):
    return make_report(
        FactCheck("onnx/opset", "opset", 1, ("opset 17, the contract says 18",)),
        parity(1e-3),
        flights(),
        NotRun("live/shadow", "--no-live", "--no-live"),
    )


@pytest.fixture
def passing(make_report):
    return make_report(FactCheck("onnx/opset", "opset", 1, ()), parity(1e-6), flights())

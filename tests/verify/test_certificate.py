"""The bound on float32 rounding: nothing that float32 gives, in whatever order, is farther from the exact logit."""

import copy
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn

from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.folded_network import fold_batch_norms
from deploy_kit.verify import verifier
from deploy_kit.verify.certificate import UNIT, certify, feature_radius, head_margins, logit_margins
from deploy_kit.verify.flight_like import flight_like_samples
from deploy_kit.verify.outputs.junit import junit_xml
from deploy_kit.verify.report import Status, Verdict, VerifyReport
from deploy_kit.verify.table import format_table
from deploy_kit.verify.verifier import verify_bundle
from helpers.bundles import copy_bundle, edit_golden
from helpers.networks import small_network


@pytest.fixture(scope="module")
def rows(shared_bundle):
    return flight_like_samples(shared_bundle.contract, 20, 3).observation


def shipped(network):
    """The network as it ships: batch norms folded, rounded once."""
    twin = copy.deepcopy(network)
    twin.stem = fold_batch_norms(twin.stem)
    if twin.normalizer is not None:
        twin.normalizer.std, twin.normalizer.eps = twin.normalizer.std + twin.normalizer.eps, 0.0
    return twin


def logits(network, rows, dtype):
    with torch.inference_mode():
        return network.to(dtype)(torch.from_numpy(rows).to(dtype)).gate_logit[:, 0].numpy()


def in_order(network, rows, order):
    """The network with every sum taken one by one in float32, in a given order of its terms."""
    rng = np.random.default_rng(0)

    def total(weight, values, bias):
        terms = np.concatenate((weight * values, bias[:, None]), axis=1).astype(np.float32)
        terms = {"forward": terms, "backward": terms[:, ::-1], "shuffled": rng.permuted(terms, axis=1)}.get(
            order, np.sort(terms, axis=1)
        )
        return np.cumsum(terms, axis=1, dtype=np.float32)[:, -1]

    def leaky(value):
        return np.where(value > 0, value, np.float32(0.01) * value)

    result = []
    for row in rows:
        state, image = (part.numpy() for part in network.split(torch.from_numpy(row[None])))
        if network.normalizer is not None:
            with torch.inference_mode():
                parts = network.normalizer(torch.from_numpy(state), torch.from_numpy(image))
            state, image = (part.numpy() for part in parts)
        value = torch.from_numpy(image)
        for layer in network.stem:
            if isinstance(layer, nn.Conv2d):
                columns = nn.functional.unfold(value, layer.kernel_size, stride=layer.stride)[0].numpy()
                weight, bias = layer.weight.numpy().reshape(layer.out_channels, -1), layer.bias.numpy()
                shape = [
                    (size - k) // s + 1
                    for size, k, s in zip(value.shape[2:], layer.kernel_size, layer.stride, strict=True)
                ]
                sums = [total(weight, column, bias) for column in columns.T]
                value = torch.from_numpy(leaky(np.stack(sums, axis=1)).reshape(1, -1, *shape))
        flat = value.flatten().numpy()
        last, encoder, head = network.stem[-1], network.state_enc, network.aux_decoder
        both = np.concatenate((last.weight.numpy(), encoder.weight.numpy()), axis=1)
        features = leaky(total(both, np.concatenate((flat, state[0])), (last.bias + encoder.bias).numpy()))
        result.append(total(head.weight.numpy(), features, head.bias.numpy())[0])
    return np.array(result)


@pytest.mark.parametrize("normalizer_eps", [None, 1e-2])
def test_no_order_of_summation_leaves_the_bound(rows, normalizer_eps):
    network = small_network(5, normalizer_eps=normalizer_eps).requires_grad_(False)
    margins = logit_margins(network, rows)
    twin = shipped(network)
    exact = logits(shipped(network), rows, torch.float64)
    assert margins.logit == pytest.approx(exact, abs=1e-9)
    for order in ("forward", "backward", "shuffled", "sorted"):
        error = np.abs(in_order(twin, rows, order).astype(np.float64) - exact)
        assert (error <= margins.bound).all()
        assert error.max() > 0.0
    # It is a bound that can say something: not thousands of times the errors seen.
    assert margins.bound.max() < 1e-3 * max(1.0, np.abs(exact).max())


def test_the_head_alone_is_bounded_by_hand():
    network = small_network(5).requires_grad_(False)
    size = network.config.feature_size
    network.aux_decoder.weight.fill_(1.0)
    network.aux_decoder.bias.fill_(0.5)
    margins = head_margins(network, np.ones((2, size), np.float32))
    terms = size + 1
    assert margins.logit == pytest.approx([size + 0.5] * 2)
    assert margins.bound == pytest.approx(terms * UNIT / (1 - terms * UNIT) * (size + 0.5), rel=1e-5)
    assert (margins.bound >= terms * UNIT * (size + 0.5)).all()
    assert feature_radius(network) == pytest.approx(size)


def test_a_slope_that_may_change_within_the_error_counts_at_its_steepest(rows):
    """At a kink the bound takes the steep side, whichever side the exact number is on."""
    network = small_network(5, normalizer_eps=None).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            module.bias.zero_()
    network.state_enc.weight.zero_()
    network.stem[-1].weight.zero_()
    zero = logit_margins(network, rows).bound
    # All features are 0 within their error: slope 1 on both sides.
    network.stem[-1].bias.fill_(1e-30)
    above = logit_margins(network, rows).bound
    network.stem[-1].bias.fill_(-1e-30)
    assert logit_margins(network, rows).bound == pytest.approx(above, rel=1e-3)
    assert (zero > 0).all()


def test_other_activations_have_no_certificate(rows):
    assert logit_margins(small_network(5, activation="elu"), rows) is None
    assert logit_margins(small_network(5, activation="relu"), rows) is not None


def test_decisions_are_counted(run, rows):
    checkpoint = load_checkpoint(run.checkpoint)
    features = checkpoint.network.with_feature_terms(torch.from_numpy(rows))[0].features.numpy()
    found = certify(checkpoint, rows, features)
    assert (found.rows, found.feature_rows) == (20, 20)
    assert found.certain == found.feature_certain == 20
    assert found.epsilon is None
    assert found.robust is None
    margin = np.abs(head_margins(checkpoint.network, features).logit - checkpoint.calibration.threshold_logit)
    assert found.median_radius == pytest.approx(np.median(margin) / feature_radius(checkpoint.network), rel=1e-3)
    # A threshold on a row's own logit leaves that decision open.
    margins = logit_margins(checkpoint.network, rows)
    assert margins.certain(float(margins.logit[4])) == 19
    assert margins.certain(float(margins.logit[4]) + 0.9 * float(margins.bound[4])) <= 19


def test_the_report_holds_the_certificate(run, tmp_path):
    report = verify_bundle(run.verify(search_evaluations=64, report=tmp_path / "r.json"))
    assert report.certificate.rows == 36
    assert report.certificate.feature_rows == 300
    assert VerifyReport.from_json(report.to_json()) == report
    assert "no order of float32 summation could flip 36 of 36" in " ".join(format_table(report).split())


def test_a_certificate_that_cannot_be_made_is_a_failed_check_everywhere(run, tmp_path, monkeypatch):
    def broken(*_):
        raise ArithmeticError("no bound")

    monkeypatch.setattr(verifier, "certify", broken)
    report = verify_bundle(run.verify(search_evaluations=64, report=tmp_path / "report.json"))
    assert [verdict for verdict in report.verdicts if verdict.status is Status.FAILED] == [
        Verdict("certificate/decisions", Status.FAILED, "all hold", ("ArithmeticError: no bound",))
    ]
    assert not report.passed
    assert report.certificate is None
    assert VerifyReport.from_json(json.loads((tmp_path / "report.json").read_text())) == report
    assert "certificate/decisions" in format_table(report)
    assert "ArithmeticError: no bound" in (tmp_path / "report.html").read_text()
    failures = ET.fromstring(junit_xml(report)).findall(".//testcase[@name='certificate/decisions']/failure")
    assert [failure.get("message") for failure in failures] == ["ArithmeticError: no bound"]


def test_without_golden_samples_the_certificate_is_left_out_by_name(run, tmp_path):
    bundle = copy_bundle(run.bundle, tmp_path / "bundle")
    edit_golden(bundle, action=None)
    report = verify_bundle(run.verify(bundle=bundle, search_evaluations=64))
    assert report.verdict("certificate/decisions").status is Status.NOT_RUN
    assert "certificate/decisions" in {check.name for check in report.left_out}

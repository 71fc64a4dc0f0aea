"""The policy that comes with deploy-kit: what is shipped, how it flies, how well its gate head tells passages.

It flies the embedded simulator: whatever frame, sign, order or delay is wrong there shows here.
"""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.collection.run import CollectOptions, collect
from deploy_kit.data.reader import open_feature_file
from deploy_kit.demo.run import DemoOptions, run_demo
from deploy_kit.files import file_sha256
from deploy_kit.flight.fly import FlyOptions, fly
from deploy_kit.flight.rollout import rollout
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.gate.metrics import auroc
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.fingerprint import feature_sha256, head_sha256
from deploy_kit.policy.run.vehicle import KNOWN_TASKS
from deploy_kit.policy.summary import describe_checkpoint
from deploy_kit.sim.registry import EnvOptions, make_env
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import RACING_TASK, TASK_ID
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle
from helpers.bundles import put_a_weight_off

EPISODES = 24
"""First episodes of a flight over all track kinds; stage 2, the airframe randomised."""

LEAST_GATES = {"circular": 6.8, "zigzag": 7.3, "ellipse": 5.8}
"""Mean gates per episode without obstacles; what is misread costs most of them."""

LEAST_GATES_AMONG_OBSTACLES = 4.8
"""The same over all kinds."""

MOST_CRASHES, MOST_CRASHES_AMONG_OBSTACLES = 2, 8
"""Episodes of a flight that end before their time."""

LEAST_AUROC = 0.975
"""Of the shipped head, on held-out episodes over all track kinds with obstacles."""

LEAST_AUROC_FLYING = 0.97
"""The same in flight, without obstacles."""

LEAST_AUROC_OF_A_SMALL_DEMO = 0.9
"""Of a head that is trained anew on some hundred rows."""


@pytest.fixture(scope="module")
def contract(shipped_policy) -> Contract:
    return Contract.from_json(shipped_policy.with_name("contract.json").read_text(encoding="utf-8"))


# -- what is shipped -----------------------------------------------------------------------------------------------


def test_weights_and_contract_belong_together(shipped_policy, contract):
    checkpoint = load_checkpoint(shipped_policy)
    assert contract.provenance.weights_sha256 == file_sha256(shipped_policy)
    assert contract.provenance.feature_sha256 == feature_sha256(checkpoint.network)
    assert contract.provenance.head_sha256 == head_sha256(checkpoint.network)
    assert contract.gate.threshold_logit == checkpoint.calibration.threshold_logit
    assert contract.gate.base_rate == checkpoint.calibration.base_rate


def test_it_has_the_reference_policys_size_and_a_trained_gate_head(shipped_policy):
    described = describe_checkpoint(load_checkpoint(shipped_policy))
    assert described["network"]["parameters_to_fly"] == 304_309
    assert described["gate_head"] == "trained"


def test_the_contract_is_that_of_the_racing_task(contract):
    task = KNOWN_TASKS[TASK_ID]
    wanted = ActionTransform.from_limits(task["max_thrust_to_weight"], task["max_body_rate"], task["gravity"])
    assert contract.action.scale == wanted.scale
    assert contract.action.offset == wanted.offset
    assert not contract.action.inside_graph
    assert (contract.observation.state_size, contract.observation.depth.rows, contract.observation.depth.columns) == (
        16,
        72,
        96,
    )
    assert contract.timing.policy_period_s.value == RACING_TASK.clock.policy_dt
    assert contract.gate.label_offset_steps == 1


def test_model_card_and_licence_lie_beside_it(shipped_policy):
    card = shipped_policy.with_name("README.md").read_text(encoding="utf-8")
    for word in ("seed", "steps", "commit", "command"):
        assert word in card.lower(), f"the model card does not tell the {word}"
    told = re.search(
        r"\(([\d ]+) steps,[^)]*\): AUROC \S+ before training, (\S+) after; "
        r"(\S+) under attack \([^)]*\), (\S+) in the worst case",
        " ".join(card.split()),
    )
    metrics = load_checkpoint(shipped_policy).calibration.metrics
    aurocs = [f"{metrics[name]:.3f}" for name in ("auroc", "auroc_pgd", "auroc_worst_case")]
    assert list(told.groups()) == [f"{metrics['rows']:,.0f}".replace(",", " "), *aurocs]
    assert "licen" in shipped_policy.with_name("LICENSE").read_text(encoding="utf-8").lower()


def test_it_is_small(shipped_policy):
    assert sum(path.stat().st_size for path in shipped_policy.parent.iterdir()) < 4e6


# -- how it flies --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_flies_every_kind_of_track(shipped_policy, one_thread):
    env = EnvOptions(num_envs=EPISODES, obstacles=False)
    (flight,) = fly(FlyOptions(policy=shipped_policy, env=env)).flights
    assert len(flight.episodes) == EPISODES
    for kind, least in LEAST_GATES.items():
        gates = [row.gates for row in flight.episodes if row.track_kind == kind]
        assert len(gates) >= 5
        assert np.mean(gates) >= least, kind
    assert sum(row.crashed for row in flight.episodes) <= MOST_CRASHES
    assert flight.statistics.gate_auroc.mean >= LEAST_AUROC_FLYING


@pytest.mark.slow
def test_a_trace_passes_the_gates_where_and_in_the_order_that_its_track_has_them(shipped_policy, one_thread):
    network = load_checkpoint(shipped_policy).network
    with make_env(EnvOptions(num_envs=2, seed=1, tracks=("circular",), obstacles=False)) as env:
        traces = [FlightTrace(index, 0.03, 16, track=track) for index, track in enumerate(env.tracks())]
        for record in rollout(env, network, max_steps=260):
            for trace in traces:
                trace.add(record)
    for trace in traces:
        assert len(trace.pass_steps) >= 3
        for index, step in enumerate(trace.pass_steps):
            gate = trace.track.gate_positions[index % 8]
            assert np.linalg.norm(trace.position[step] - gate) <= RACING_TASK.pass_radius


@pytest.mark.slow
def test_it_flies_among_obstacles_and_its_head_tells_passages_there(shipped_policy, one_thread, tmp_path):
    path = tmp_path / "f.h5"
    collect(
        CollectOptions(
            shipped_policy,
            path,
            EnvOptions(num_envs=EPISODES, seed=11),
            heldout_episodes=EPISODES,
            num_negative=0,
            num_positive=0,
            keep_observations=0,
        )
    )
    network = load_checkpoint(shipped_policy).network
    with open_feature_file(path) as file:
        rows = file.heldout()
        features, label, episode_id = rows.features, rows.label.astype(bool), rows.episode_id
    assert label.sum() >= LEAST_GATES_AMONG_OBSTACLES * EPISODES
    gates, steps = (
        np.array([part.sum() for part in np.split(values, np.flatnonzero(np.diff(episode_id)) + 1)])
        for values in (label, np.ones_like(label, int))
    )
    assert gates.size == EPISODES
    # An open track ends at its eighth gate, any other flight by its time.
    crashed = (steps < 0.99 * RACING_TASK.stages[2].episode_length_s / RACING_TASK.clock.policy_dt) & (gates < 8)
    assert crashed.sum() <= MOST_CRASHES_AMONG_OBSTACLES
    logit = network.aux_decoder(torch.from_numpy(features))[:, 0].double().numpy()
    assert auroc(logit, label) >= LEAST_AUROC


# -- the chain -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_trains_the_head_anew_and_proves_the_bundle(shipped_policy, one_thread, tmp_path, monkeypatch):
    few = replace(Thresholds(), min_episodes=2)
    monkeypatch.setattr("deploy_kit.demo.run.VerifyOptions", partial(VerifyOptions, thresholds=few))
    options = DemoOptions(
        checkpoint=shipped_policy,
        output=tmp_path / "demo",
        env=EnvOptions(num_envs=8),
        num_rows=100,
        heldout_episodes=12,
        live_episodes=2,
        flights=2,
    )
    result = run_demo(options)
    before, after = result.finetuned.before["auroc"], result.finetuned.after["auroc"]
    assert after >= LEAST_AUROC_OF_A_SMALL_DEMO
    assert after > before
    assert result.report.passed, [verdict for verdict in result.report.verdicts if verdict.reasons]
    assert [path.name for path in result.flight.pictures] == [
        "actions.png",
        "auxiliary_prob.png",
        "depth.mp4",
        "depth.png",
        "track.png",
        "index.html",
    ]
    # Only the head was trained.
    given, trained = (load_checkpoint(p).network.state_dict() for p in (shipped_policy, result.finetuned.checkpoint))
    changed = {name for name in given if not torch.equal(given[name], trained[name])}
    assert changed == {"aux_decoder.weight", "aux_decoder.bias"}

    # A single weight that is off shows.
    put_a_weight_off(result.bundle)
    against = VerifyOptions(bundle=result.bundle, checkpoint=result.finetuned.checkpoint, replay=False, live=False)
    report = verify_bundle(against)
    failed = {verdict.name for verdict in report.verdicts if verdict.status == "failed"}
    assert {"replay/random/onnx", "replay/extreme/onnx"} <= failed

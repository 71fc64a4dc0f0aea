"""Flights from the contract alone: a constant that is wrong in the contract and in its source alike must show."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import deploy_kit.verify.meaning
from deploy_kit.bundle.implied import describe
from deploy_kit.bundle.reader import open_bundle
from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.bench import Bench, Slice, bench_for
from deploy_kit.verify.bundle_and_checkpoint import NamedVehicle, find_vehicle, pair_bundle
from deploy_kit.verify.contract_flight import ContractFlights, accepted_check
from deploy_kit.verify.meaning import contract_checks
from deploy_kit.verify.report import Status, judge
from helpers.bundles import edit_golden
from helpers.mutations import mutate_contract
from helpers.vehicles import VEHICLE

ENVS, STEPS = 2, 6
HALF_THRUST = 0.5 * 3.0 * 9.81


class Simulator:
    """Stands for a racing simulator: what it shows is drawn, but for the command that acts, as the task delays it."""

    def __init__(self, latency=1):
        self.num_envs, self.rng = ENVS, np.random.default_rng(0)
        at_rest = np.tile([HALF_THRUST, 0.0, 0.0, 0.0], (ENVS, 1))
        self.acting = [at_rest] * (latency + 1)

    def observation(self):
        rng = self.rng
        up = rng.normal(size=(ENVS, 3))
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        parts = [rng.uniform(-5, 5, (ENVS, 3)), up, rng.uniform(-9, 9, (ENVS, 6)), self.acting[0]]
        # A third of the pixels sees nothing.
        parts.append(np.minimum(rng.uniform(0.02, 1.5, (ENVS, 6912)), 1.0))
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))

    def step(self, action):
        scale, offset = np.array([HALF_THRUST, 6.0, 6.0, 6.0]), np.array([HALF_THRUST, 0.0, 0.0, 0.0])
        self.acting = [*self.acting[1:], np.tanh(action.double().numpy()) * scale + offset]


def fly(run, vehicle_file=None, task=TASK_ID):
    checkpoint = load_checkpoint(run.checkpoint)
    bundle = open_bundle(run.bundle)
    named = find_vehicle(checkpoint, TASK_ID, vehicle_file, bundle.contract)
    flights = ContractFlights(pair_bundle(bundle, checkpoint, named), task)
    simulator = Simulator()
    driver = flights.driver(simulator)
    for step in range(STEPS):
        output = driver(simulator.observation())
        simulator.step(output.action)
        driver.watch(SimpleNamespace(done=torch.tensor([False, step == 3])))
    check = flights.commands_check()
    return check, judge(check, Thresholds())


def test_right_bundle_gives_the_checkpoints_commands(racer):
    check, verdict = fly(racer)
    assert verdict.status is Status.PASSED, verdict
    # The second environment's first episode ended at step 3.
    assert check.rows == 6 + 4
    assert {output.name for output in check.outputs} == {"command", "gate_probability"}
    assert check.decisions.decisions == 10
    assert check.note is None


def observation_of(contract, **changes):
    return replace(contract, observation=replace(contract.observation, **changes))


def action_of(contract, **changes):
    return replace(contract, action=replace(contract.action, **changes))


def thrust_scale(contract):
    return action_of(contract, scale=(contract.action.scale[0] * 1.001, *contract.action.scale[1:]))


def thrust_offset(contract):
    return action_of(contract, offset=(contract.action.offset[0] + 0.01, 0.0, 0.0, 0.0))


def rates_in_degrees(contract):
    return action_of(contract, units=("m/s²", "deg/s", "deg/s", "deg/s"))


def roll_and_pitch_swapped(contract):
    names = contract.action.names
    return action_of(contract, names=(names[0], names[2], names[1], names[3]))


def commands_with_z_down(contract):
    return action_of(contract, frame="body: x forward, y right, z down; thrust over mass along z")


def term_of(contract, index, **changes):
    terms = list(contract.observation.terms)
    terms[index] = replace(terms[index], **changes)
    return observation_of(contract, terms=tuple(terms))


def velocity_with_z_down(contract):
    return term_of(contract, 0, frame="body: x forward, y right, z down")


def target_in_feet(contract):
    return term_of(contract, 2, unit="ft")


def velocity_scaled(contract):
    return term_of(contract, 0, scale=(0.5, 0.5, 0.5))


def order_of_terms(contract):
    first, second, *rest = contract.observation.terms
    swapped = (replace(second, start=0, stop=3), replace(first, start=3, stop=6), *rest)
    return observation_of(contract, terms=swapped)


def depth_of(contract, **changes):
    return observation_of(contract, depth=replace(contract.observation.depth, **changes))


def depth_divisor(contract):
    return depth_of(contract, divisor_m=9.5)


def depth_clip(contract):
    return depth_of(contract, clip_m=9.0)


def image_upside_down(contract):
    return depth_of(contract, order="row-major, bottom row first, left column first")


def image_mirrored(contract):
    return depth_of(contract, order="row-major, top row first, right column first")


def distance_along_the_ray(contract):
    return depth_of(contract, measure="distance to the optical centre, m")


def no_latency(contract):
    latency = replace(contract.timing.action_latency_steps, value=0.0)
    return replace(contract, timing=replace(contract.timing, action_latency_steps=latency))


WRONG = [
    thrust_scale,
    thrust_offset,
    rates_in_degrees,
    roll_and_pitch_swapped,
    commands_with_z_down,
    velocity_with_z_down,
    target_in_feet,
    velocity_scaled,
    order_of_terms,
    depth_divisor,
    depth_clip,
    image_upside_down,
    image_mirrored,
    distance_along_the_ray,
    no_latency,
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_constant_that_is_wrong_in_source_and_export_alike_shows(racer, tmp_path, monkeypatch, wrong):
    run = mutate_contract(racer, tmp_path, wrong)
    contract, golden = open_bundle(run.bundle).contract, open_bundle(run.bundle).golden
    transform = ActionTransform(contract.action.scale, contract.action.offset)
    edit_golden(run.bundle, command=transform.apply(golden.action).astype(np.float32))
    # The source has the same fault, so that comparing the contract with it finds nothing.
    monkeypatch.setattr(deploy_kit.verify.meaning, "describe", lambda *args, **kwargs: wrong(describe(*args, **kwargs)))
    checkpoint, bundle = load_checkpoint(run.checkpoint), open_bundle(run.bundle)
    named = find_vehicle(checkpoint, TASK_ID, None, bundle.contract)
    assert [problem for check in contract_checks(bundle, checkpoint, named) for problem in check.problems] == []
    _, verdict = fly(run)
    assert verdict.status is Status.FAILED
    assert "command[" in verdict.reasons[0]


def test_another_clock_is_refused(racer, tmp_path):
    def mutate(contract):
        period = replace(contract.timing.policy_period_s, value=0.02)
        return replace(contract, timing=replace(contract.timing, policy_period_s=period))

    with pytest.raises(ArtifactError, match=r"policy period is 0\.02 s, a step here takes 0\.03 s"):
        fly(mutate_contract(racer, tmp_path, mutate))


@pytest.mark.parametrize(
    ("mutate", "words"),
    [
        (lambda c: term_of(c, 0, frame="world"), "frame 'world'"),
        (lambda c: term_of(c, 0, unit="knots"), "unit 'knots'"),
        (lambda c: action_of(c, frame="hull"), "frame 'hull'"),
        (lambda c: action_of(c, names=("thrust", "p", "q", "r")), "actions are thrust, p, q, r"),
        (lambda c: depth_of(c, order="column-major"), "order is 'column-major'"),
        (lambda c: depth_of(c, measure="brightness"), "measures 'brightness'"),
        (lambda c: term_of(c, 0, quantity="base_ang_vel"), "asks for base_ang_vel"),
        (lambda c: depth_of(c, clip_m=None, divisor_m=None), "refuses the bundle: contract_invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_nobody_could_act_on_is_refused_by_name(racer, tmp_path, mutate, words):
    with pytest.raises(ArtifactError, match=words):
        fly(mutate_contract(racer, tmp_path, mutate))


def test_refused_steps_are_counted_and_held(racer, tmp_path):
    run = mutate_contract(racer, tmp_path, lambda c: term_of(c, 2, low=(-0.001,) * 3, high=(0.001,) * 3))
    checkpoint, bundle = load_checkpoint(run.checkpoint), open_bundle(run.bundle)
    flights = ContractFlights(pair_bundle(bundle, checkpoint, NamedVehicle(None, wanted=False)), TASK_ID)
    simulator = Simulator()
    driver = flights.driver(simulator)
    action = driver(simulator.observation()).action
    assert action.tolist() == [[0.0] * 4] * ENVS
    driver.watch(SimpleNamespace(done=torch.tensor([True, True])))
    assert accepted_check([flights.faults], flights.steps).problems == (
        "the runner refused 2 of 2 steps: state_out_of_range 2",
    )
    assert judge(flights.commands_check(), Thresholds()).status is Status.FAILED


def test_vehicle_of_the_users_own_flies_by_its_own_numbers(racer, tmp_path):
    vehicle = tmp_path / "vehicle.yaml"
    vehicle.write_text(VEHICLE.replace("max_thrust_to_weight: 3.0", "max_thrust_to_weight: 4.0"))
    options = ExportOptions(
        racer.checkpoint, tmp_path / "bundle", use_auxiliary_head=True, vehicle_file=vehicle, task=TASK_ID, num_golden=2
    )
    run = replace(racer, bundle=export_bundle(options))
    checkpoint, bundle = load_checkpoint(run.checkpoint), open_bundle(run.bundle)
    named = find_vehicle(checkpoint, TASK_ID, vehicle, bundle.contract)
    bench = bench_for(Simulator(), TASK_ID, pair_bundle(bundle, checkpoint, named))
    assert bench.transform.scale[0] == pytest.approx(0.5 * 4.0 * 9.81)
    assert "not the one that you named" in bench.note
    # Without that file, the simulator's own vehicle counts.
    named = find_vehicle(checkpoint, TASK_ID, None, bundle.contract)
    bench = bench_for(Simulator(), TASK_ID, pair_bundle(bundle, checkpoint, named))
    assert (bench.transform.scale[0], bench.note) == (pytest.approx(HALF_THRUST), None)


def test_bench_takes_an_observation_apart_and_puts_commands_together():
    transform = ActionTransform((10.0, 6.0, 6.0, 6.0), (10.0, 0.0, 0.0, 0.0))
    bench = Bench((Slice("speed", 0, 2, (2.0, 4.0)), Slice(None, 2, 3)), (2, 2), 8.0, transform, 0.03)
    raw = bench.measure(np.array([1.0, 1.0, 7.0, 0.25, 1.0, 0.5, 1.5], np.float32))
    assert raw.quantities["speed"].tolist() == [0.5, 0.25]
    assert raw.state.tolist() == [1.0, 1.0, 7.0]
    assert raw.depth.tolist() == [[2.0, np.inf], [4.0, np.inf]]
    action = np.array([[0.3, -2.0, 0.0, 5.0]])
    assert bench.actions(transform.apply(action)) == pytest.approx(action, rel=1e-6)
    assert np.isfinite(bench.actions(np.array([[30.0, -9.0, 6.0, 0.0]]))).all()


def test_task_that_nothing_describes_has_no_bench(racer):
    checkpoint, bundle = load_checkpoint(racer.checkpoint), open_bundle(racer.bundle)
    subject = pair_bundle(bundle, checkpoint, NamedVehicle(None, wanted=False))
    assert "nothing tells what the observations of my:task measure" in bench_for(Simulator(), "my:task", subject)
    named = find_vehicle(checkpoint, TASK_ID, None, bundle.contract)
    bench = bench_for(Simulator(), "my:task", pair_bundle(bundle, checkpoint, named))
    assert [item.quantity for item in bench.slices][-1] == "last_action"

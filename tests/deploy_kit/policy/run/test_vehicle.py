import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.run.params import RunParams, load_run_params
from deploy_kit.policy.run.vehicle import KEYS, resolve_vehicle, vehicle_record
from deploy_kit.task.racing import RACING_TASK, TASK_ID

FILE = """\
max_thrust_to_weight: 2.5
max_body_rate: [8, 8, 3]
gravity: 9.80665
policy_period_s: 0.02
depth_period_s: 0.0333
action_latency_steps: 2
mass_kg: 0.61
"""


def env(**changes):
    """Settings as Isaac Lab dumps them, with changes by dotted key (None removes)."""
    settings = yaml.safe_load(
        """
        sim: {dt: 0.005, gravity: [0.0, 0.0, -9.81]}
        decimation: 4
        scene: {front_camera: {update_period: 0.05}, contact_forces: {update_period: 0.01}, num_envs: 2}
        actions:
          force_torque:
            command_type: CTBRController
            controller_cfg: {g: 9.81, body_rate_bound: [-7, 7]}
            gravity: 9.81
            action_lag: 1
            max_thrust_weight_ratio: 4.0
        """
    )
    for key, value in changes.items():
        *path, last = key.split("__")
        target = settings
        for part in path:
            target = target[part]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return RunParams(None, None, settings)


def test_env_yaml_tells_everything():
    vehicle = resolve_vehicle(env())
    assert vehicle.max_thrust_to_weight == 4.0
    assert vehicle.max_body_rate == (7.0, 7.0, 7.0)
    assert vehicle.gravity == 9.81
    assert vehicle.policy_period_s == pytest.approx(0.02)
    assert vehicle.depth_period_s == 0.05
    assert vehicle.action_latency_steps == 1
    assert vehicle.mass_kg is None
    assert vehicle.source == "params/env.yaml"
    assert set(vehicle.sources) == set(KEYS) - {"mass_kg", "depth_range_m"}


def test_the_action_transform_spans_thrust_and_rates():
    transform = resolve_vehicle(env()).action_transform
    low, middle, high = transform.apply(np.array([[-50.0] * 4, [0.0] * 4, [50.0] * 4]))
    assert low == pytest.approx([0, -7, -7, -7])
    assert middle == pytest.approx([2 * 9.81, 0, 0, 0])
    assert high == pytest.approx([4 * 9.81, 7, 7, 7])


def test_a_known_task_tells_everything():
    vehicle = resolve_vehicle(RunParams(), TASK_ID)
    assert (vehicle.max_thrust_to_weight, vehicle.max_body_rate, vehicle.gravity) == (3.0, (6.0, 6.0, 6.0), 9.81)
    assert (vehicle.policy_period_s, vehicle.depth_period_s, vehicle.action_latency_steps) == (0.03, 0.04, 1)
    assert vehicle.mass_kg == 0.5
    assert vehicle.source == "task"


def test_the_known_task_is_the_simulators():
    clock, controller = RACING_TASK.clock, RACING_TASK.controller
    vehicle = resolve_vehicle(RunParams(), TASK_ID)
    assert vehicle.max_thrust_to_weight == controller.max_thrust_to_weight
    assert vehicle.max_body_rate == (controller.max_body_rate,) * 3
    assert vehicle.policy_period_s == pytest.approx(clock.policy_dt)
    assert vehicle.depth_period_s == clock.camera_period
    assert vehicle.action_latency_steps == clock.action_delay
    assert vehicle.mass_kg == RACING_TASK.airframe.mass


def test_nothing_known_is_an_error_that_says_what_to_give():
    with pytest.raises(
        OptionError, match=r"max_thrust_to_weight, max_body_rate, .* are unknown: give --vehicle FILE .*or --task"
    ):
        resolve_vehicle(RunParams())
    with pytest.raises(OptionError, match=r"did you mean DiffLab-Quadcopter-CTBR-Racing-v0\?"):
        resolve_vehicle(RunParams(), "DiffLab-Quadcopter-CTBR-Racing-v1")
    with pytest.raises(OptionError, match="max_body_rate is unknown: give --vehicle"):
        resolve_vehicle(env(actions__force_torque__controller_cfg__body_rate_bound=None))


def test_a_file_wins_and_what_it_replaces_is_recorded(tmp_path, caplog):
    path = tmp_path / "drone.yaml"
    path.write_text(FILE)
    vehicle = resolve_vehicle(env(), TASK_ID, path)
    assert vehicle.max_body_rate == (8.0, 8.0, 3.0)
    assert vehicle.max_thrust_to_weight == 2.5
    assert vehicle.action_latency_steps == 2
    assert vehicle.mass_kg == 0.61
    assert vehicle.source == "file:drone.yaml"
    assert vehicle.overridden["max_thrust_to_weight"] == "params/env.yaml says: 4.0"
    assert vehicle.overridden["mass_kg"] == "the task says: 0.5"
    assert "policy_period_s" not in vehicle.overridden
    assert "max_thrust_to_weight" in caplog.text


def test_sources_mix_per_number(tmp_path):
    (tmp_path / "drone.json").write_text(json.dumps({"max_body_rate": 5}))
    params = env(
        scene__front_camera=None,
        decimation=6,
        actions__force_torque__max_thrust_weight_ratio=3.0,
    )
    vehicle = resolve_vehicle(params, TASK_ID, tmp_path / "drone.json")
    assert vehicle.max_body_rate == (5.0, 5.0, 5.0)
    assert vehicle.sources["max_body_rate"] == "file:drone.json"
    assert vehicle.sources["max_thrust_to_weight"] == "params/env.yaml"
    assert (vehicle.depth_period_s, vehicle.sources["depth_period_s"]) == (0.04, "task")
    assert vehicle.source == "params/env.yaml + file:drone.json + task"


def test_run_and_task_that_contradict_each_other():
    with pytest.raises(OptionError, match=r"max_thrust_to_weight: params/env.yaml says 4\.0, but task .* says 3\.0"):
        resolve_vehicle(env(), TASK_ID)


def recorded(params: RunParams = RunParams(), **changes) -> RunParams:  # noqa: B008  # frozen
    record = vehicle_record(TASK_ID)
    return replace(params, recorded_vehicle={**record, "numbers": {**record["numbers"], **changes}})


def test_the_record_in_the_checkpoint_counts_before_the_task():
    for task in (None, TASK_ID, "Another-Task"):
        vehicle = resolve_vehicle(recorded(), task)
        assert vehicle.source == "checkpoint"
        assert replace(vehicle, sources={}) == replace(resolve_vehicle(RunParams(), TASK_ID), sources={})


def test_a_file_wins_over_the_record(tmp_path):
    (tmp_path / "drone.yaml").write_text("gravity: 9.78\n")
    vehicle = resolve_vehicle(recorded(), None, tmp_path / "drone.yaml")
    assert (vehicle.gravity, vehicle.sources["gravity"]) == (9.78, "file:drone.yaml")
    assert vehicle.overridden == {"gravity": "the checkpoint says: 9.81"}
    assert vehicle.sources["max_body_rate"] == "checkpoint"


def test_a_record_that_contradicts_run_or_task():
    with pytest.raises(OptionError, match=r"gravity: the vehicle recorded in the checkpoint says 1\.62, but task .*9"):
        resolve_vehicle(recorded(gravity=1.62), TASK_ID)
    message = r"max_thrust_to_weight: params/env\.yaml says 4\.0, but the vehicle recorded in the checkpoint says 3\.0"
    with pytest.raises(OptionError, match=message):
        resolve_vehicle(recorded(env()))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "is no record that deploy-kit wrote"),
        ({"task": TASK_ID}, "is no record that deploy-kit wrote"),
        ({"numbers": {"colour": 1}}, "is no record that deploy-kit wrote"),
        ({"numbers": {"gravity": -1}}, "gravity is -1, not a number above 0"),
        ({"numbers": {"action_latency_steps": 0.5}}, "action_latency_steps is 0.5, not a whole number"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(record, message):
    with pytest.raises(CheckpointError, match=message):
        resolve_vehicle(RunParams(recorded_vehicle=record), TASK_ID)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions__force_torque__gravity": 1.62}, r"actions\.force_torque\.gravity is 1\.62, but .*g is 9\.81"),
        ({"sim__gravity": [0, 0, -3.7]}, r"sim\.gravity is 3\.7"),
        ({"sim__gravity": [0, 0, "low"]}, r"sim\.gravity holds 'low'"),
        ({"sim__dt": -1}, r"sim\.dt is -1"),
        ({"decimation": "three"}, "decimation is 'three'"),
        ({"actions__force_torque__max_thrust_weight_ratio": True}, "max_thrust_weight_ratio is True"),
        ({"actions__force_torque__controller_cfg__body_rate_bound": [-6, 7]}, "not a symmetric pair"),
        ({"actions__force_torque__controller_cfg__body_rate_bound": 6}, "not a symmetric pair"),
        ({"actions__force_torque__action_lag": 1.5}, "action_lag is 1.5"),
        ({"actions__force_torque__command_type": "AttitudeController"}, "command_type is AttitudeController"),
        ({"actions__other": {"max_thrust_weight_ratio": 2}}, r"several actions .*\(force_torque, other\)"),
        ({"scene__rear_camera": {"update_period": 0.1}}, r"several cameras .*\(front_camera, rear_camera\)"),
        ({"scene__front_camera__update_period": "often"}, "update_period is 'often'"),
    ],
)
def test_settings_that_cannot_be_understood_are_named(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        resolve_vehicle(env(**changes))
    (tmp_path / "drone.yaml").write_text(FILE)
    assert resolve_vehicle(env(**changes), None, tmp_path / "drone.yaml").source == "file:drone.yaml"


def test_a_camera_period_of_zero_means_every_step():
    assert resolve_vehicle(env(scene__front_camera__update_period=0.0)).depth_period_s == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_thrust: 3", r"unknown key 'max_thrust'; did you mean max_thrust_to_weight\?"),
        ("wheels: 4", "unknown key 'wheels'; known are"),
        ("max_thrust_to_weight: 0", "is 0, not a number above 0"),
        ("max_thrust_to_weight: .nan", "is nan, not a number above 0"),
        ("max_thrust_to_weight: three", "is 'three', not a number above 0"),
        ("max_body_rate: [1, 2]", r"is \[1, 2\], not a number above 0, or three"),
        ("max_body_rate: [1, 2, -3]", "not a number above 0, or three"),
        ("action_latency_steps: 1.5", "not a whole number"),
        ("action_latency_steps: -1", "not a whole number"),
        ("action_latency_steps: true", "not a whole number"),
        ("- 3", "top level"),
        ("a: [", "not a usable YAML"),
    ],
)
def test_a_bad_vehicle_file_is_refused(tmp_path, text, message):
    path = tmp_path / "drone.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message) as caught:
        resolve_vehicle(RunParams(), TASK_ID, path)
    assert "\n" not in str(caught.value)


def test_a_missing_vehicle_file_is_refused(tmp_path):
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        resolve_vehicle(RunParams(), TASK_ID, tmp_path / "absent.yaml")


@pytest.mark.reference
def test_reference_run_is_the_racing_task(reference_run):
    params = load_run_params(reference_run / "model_7998.pt")
    run, task = resolve_vehicle(params), resolve_vehicle(RunParams(), TASK_ID)
    assert run.action_transform == task.action_transform
    assert (run.policy_period_s, run.depth_period_s, run.action_latency_steps) == (0.03, 0.04, 1)
    assert resolve_vehicle(params, TASK_ID).source == "params/env.yaml"
    slices = [value for value in str(params.env).split("TaggedValue") if "object/apply:builtins.slice" in value]
    assert len(slices) == 24

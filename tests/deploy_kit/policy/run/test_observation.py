import copy

import pytest

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.run.observation import resolve_observation
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.vehicle import resolve_vehicle
from deploy_kit.task.interface import STATE_TERMS, ObservationLayout
from deploy_kit.task.racing import TASK_ID

MASTER_RACING = "diff.lab_tasks.tasks.racing.mdp.observation:"
LAYOUT = ObservationLayout()
IMAGE = {
    "func": MASTER_RACING + "depth_image",
    "params": {"sensor_cfg": {"name": "front_camera"}, "data_type": "distance_to_image_plane"},
    "scale": None,
}
RACING_GROUP = {
    "concatenate_terms": True,
    "enable_corruption": True,
    "history_length": None,
    "flatten_history_dim": True,
    "base_lin_vel": {"func": MASTER_RACING + "modified_base_lin_vel", "clip": None, "scale": None, "modifiers": None},
    "base_orientation": {"func": MASTER_RACING + "base_orientation_r"},
    "target_cmd": {"func": MASTER_RACING + "modified_generated_commands"},
    "last_action": {"func": MASTER_RACING + "modified_last_action"},
    "image": IMAGE,
}


def params(changes=None, order=None, **scene):
    """A run whose policy group is the racing task's, with terms replaced (None removes) and in another order."""
    group = {**copy.deepcopy(RACING_GROUP), **(changes or {})}
    group = {name: term for name, term in group.items() if name in ("history_length",) or term is not None}
    if order:
        group = {name: group[name] for name in order}
    return RunParams(env={"observations": {"policy": group}, "scene": scene})


def of_run(changes=None, order=None, layout=LAYOUT, task=None):
    return resolve_observation(params(changes, order), task, layout)


def places(observation):
    return [(term.quantity, term.start, term.stop) for term in observation.terms]


RACING_PLACES = [(term.name, term.start, term.stop) for term in STATE_TERMS]


def test_the_runs_terms_are_the_racing_tasks():
    found = of_run()
    assert places(found) == RACING_PLACES == places(resolve_observation(RunParams(), TASK_ID, LAYOUT))
    assert [term.name for term in found.terms] == [term.name for term in STATE_TERMS]
    assert found.terms[2].source == "params/env.yaml: observations.policy.target_cmd (modified_generated_commands)"
    assert found.terms[0].unit == "m/s"
    assert (found.terms[1].range_source, found.terms[0].range_source) == ("definition", "assumed")
    assert found.depth.measure == "distance to the image plane along the optical axis, m"
    assert found.depth.source == "params/env.yaml: observations.policy.image"


def test_the_named_tasks_terms_say_so():
    found = resolve_observation(RunParams(env={"decimation": 3}), TASK_ID, LAYOUT)
    assert {term.source for term in found.terms} == {found.depth.source} == {"task"}


def test_the_order_is_the_runs():
    found = of_run(order=["last_action", "target_cmd", "base_orientation", "base_lin_vel", "image"])
    assert places(found) == [
        ("last_action", 0, 4),
        ("target_position", 4, 7),
        ("next_target_offset", 7, 10),
        ("base_orientation", 10, 13),
        ("base_lin_vel", 13, 16),
    ]


def test_scale_and_clip_are_told_component_by_component():
    target = {**RACING_GROUP["target_cmd"], "scale": (0.1, 0.2, 0.3, 1.0, 1.0, 2.0)}
    velocity = {**RACING_GROUP["base_lin_vel"], "scale": 0.5, "clip": (-9.0, 9)}
    terms = of_run({"target_cmd": target, "base_lin_vel": velocity}).terms
    assert (terms[0].scale, terms[0].clip) == ((0.5, 0.5, 0.5), (-9.0, 9.0))
    assert (terms[2].scale, terms[3].scale, terms[2].clip) == ((0.1, 0.2, 0.3), (1.0, 1.0, 2.0), None)


def test_nothing_is_said_of_a_state_that_nobody_describes():
    (term,) = resolve_observation(RunParams(), None, LAYOUT).terms
    assert (term.name, term.start, term.stop) == ("state", 0, 16)
    for name in ("quantity", "unit", "frame", "low", "high", "range_source", "source", "scale", "clip", "description"):
        assert getattr(term, name) is None
    assert resolve_observation(RunParams(), "My-Task-v0", LAYOUT).depth.measure is None


def test_a_function_that_is_not_known_gets_a_place_and_no_meaning():
    terms = of_run({"base_orientation": {"func": "mine.mdp:attitude"}}).terms
    assert places(of_run({"base_orientation": {"func": "mine.mdp:attitude"}}))[1:3] == [
        (None, 3, 6),
        ("target_position", 6, 9),
    ]
    assert (terms[1].name, terms[1].unit, terms[1].low) == ("base_orientation", None, None)
    assert terms[1].source == "params/env.yaml"
    assert "mine.mdp:attitude" in terms[1].description


def test_terms_between_two_unknown_ones_have_no_place_of_their_own():
    changes = {"base_orientation": {"func": "mine.mdp:a"}, "last_action": {"func": "mine.mdp:b"}}
    assert places(of_run(changes)) == [("base_lin_vel", 0, 3), (None, 3, 16)]
    assert of_run(changes).terms[1].name == "base_orientation + target_cmd + last_action"


@pytest.mark.parametrize("setting", ["modifiers", "history_length"])
def test_values_that_are_changed_on_the_way_are_not_called_the_known_quantity(setting):
    terms = of_run({"base_lin_vel": {**RACING_GROUP["base_lin_vel"], setting: [1]}}).terms
    assert (terms[0].quantity, terms[0].start, terms[0].stop) == (None, 0, 3)
    assert setting in terms[0].description
    assert terms[1].quantity == "base_orientation"


def test_a_history_of_the_group_hides_every_term():
    assert [term.quantity for term in of_run({"history_length": 3}).terms] == [None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_lin_vel": None}, r"target_cmd 6, last_action 4\) make 13 numbers, but this policy's state has 16"),
        ({"image": None, "more": {"func": MASTER_RACING + "base_orientation_r"}, "last": IMAGE}, "make 19 numbers"),
        ({"base_lin_vel": {**RACING_GROUP["base_lin_vel"], "scale": (1.0, 2.0)}}, "scale has 2 numbers, the term 3"),
        ({"base_lin_vel": {**RACING_GROUP["base_lin_vel"], "scale": 0.0}}, "scale is 0.0"),
        ({"base_lin_vel": {**RACING_GROUP["base_lin_vel"], "clip": (3, 1)}}, "clip is .3, 1., not two finite numbers"),
        ({"concatenate_terms": False}, "concatenate_terms is false"),
    ],
)
def test_terms_that_do_not_fit_the_policy_are_an_error(changes, message):
    with pytest.raises(CheckpointError, match=message):
        of_run(changes)


def test_the_image_must_be_what_the_policy_takes_for_it():
    with pytest.raises(CheckpointError, match="the last of its group, for this policy takes the last 6912 numbers"):
        of_run(order=["image", "base_lin_vel", "base_orientation", "target_cmd", "last_action"])


def test_a_task_that_the_run_contradicts_is_an_error():
    assert places(of_run(task=TASK_ID)) == RACING_PLACES
    with pytest.raises(OptionError, match=r"lists the terms last_action, .* not those of task"):
        of_run(order=["last_action", "target_cmd", "base_orientation", "base_lin_vel", "image"], task=TASK_ID)
    with pytest.raises(OptionError, match="has 16 state numbers, this policy 9"):
        resolve_observation(RunParams(), TASK_ID, ObservationLayout(9))


def vehicle_run(image=None, **camera):
    run = params({"image": image or IMAGE}, front_camera={"class_type": "x:RayCasterCamera", **camera})
    of_task = resolve_vehicle(RunParams(), TASK_ID)
    run.env["sim"], run.env["decimation"] = {"dt": 0.01, "gravity": (0, 0, -of_task.gravity)}, 3
    run.env["scene"]["front_camera"].setdefault("update_period", 0.04)
    run.env["actions"] = {
        "a": {"max_thrust_weight_ratio": 3.0, "controller_cfg": {"body_rate_bound": (-6, 6)}, "action_lag": 1}
    }
    return run


def test_the_depths_range_is_the_cameras():
    vehicle = resolve_vehicle(vehicle_run(max_distance=20.0))
    assert (vehicle.depth_range_m, vehicle.sources["depth_range_m"]) == (20.0, "params/env.yaml")
    with pytest.raises(OptionError, match=r"depth_range_m: params/env.yaml says 20.0, but task .* says 10.0"):
        resolve_vehicle(vehicle_run(max_distance=20.0), TASK_ID)


def test_a_range_that_does_not_describe_the_image_is_unknown_or_an_error():
    assert resolve_vehicle(vehicle_run(max_distance=20.0, depth_clipping_behavior="zero")).depth_range_m is None
    assert resolve_vehicle(vehicle_run({**IMAGE, "func": "mine:depth"}, max_distance=20.0)).depth_range_m is None
    with pytest.raises(CheckpointError, match="supported is an image over the camera's range"):
        resolve_vehicle(vehicle_run({**IMAGE, "scale": 0.5}, max_distance=20.0))


@pytest.mark.parametrize(("agent", "found"), [({"clip_actions": 2}, 2.0), ({"clip_actions": None}, None)])
def test_the_agents_limit_of_the_actions(agent, found):
    vehicle = resolve_vehicle(RunParams(agent=agent), TASK_ID)
    assert (vehicle.clip_actions, vehicle.sources["clip_actions"]) == (found, "params/agent.yaml")
    assert vehicle.action_transform.clip == found


def test_a_limit_that_nobody_tells_is_not_called_none():
    run = vehicle_run(max_distance=10.0)
    assert "clip_actions" not in resolve_vehicle(run).sources
    assert resolve_vehicle(RunParams(), TASK_ID).sources["clip_actions"] == "task"
    with pytest.raises(CheckpointError, match="clip_actions is -1"):
        resolve_vehicle(RunParams(agent={"clip_actions": -1}), TASK_ID)

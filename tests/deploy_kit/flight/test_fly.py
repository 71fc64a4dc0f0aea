import json
import sys
from dataclasses import replace
from importlib.metadata import version

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import t as student_t

import deploy_kit
from deploy_kit.errors import MissingDependencyError, OptionError, TaskError
from deploy_kit.files import file_sha256
from deploy_kit.flight.fly import FlyOptions, fly
from deploy_kit.flight.pictures.video import DepthVideo
from deploy_kit.flight.rollout import rollout
from deploy_kit.flight.summary import describe_flight
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.policy.checkpoint import save_safetensors
from deploy_kit.sim.mujoco.env import MujocoRacingEnv
from deploy_kit.sim.options import EnvOptions
from helpers import scripted_racing
from helpers.networks import small_network
from helpers.pages import assert_self_contained


@pytest.fixture
def options(checkpoint, vehicle) -> FlyOptions:
    return FlyOptions(
        policy=checkpoint, env=EnvOptions(num_envs=4), task="helpers.scripted_racing:make", vehicle_file=vehicle
    )


def gates_of(env):
    return sum(scripted_racing.label_of(env, 0, step) for step in range(scripted_racing.length_of(env, 0)))


def test_statistics_are_those_of_the_script(options):
    statistics = fly(options).statistics
    assert statistics.episodes == 4
    assert statistics.gates_per_episode.mean == np.mean([gates_of(env) for env in range(4)])
    assert statistics.crash_rate.mean == np.mean([not scripted_racing.ends_by_time(env, 0) for env in range(4)])
    assert statistics.mean_speed is None


def test_the_record_says_what_flew_how_and_each_episode(options, tmp_path):
    target = tmp_path / "flight.json"
    result = fly(replace(options, json_path=target, env=EnvOptions(num_envs=4, seed=3)))
    record = json.loads(target.read_text())
    (flight,) = record["flights"]
    assert record["comparison"] is None
    assert flight["policy"] == {
        "kind": "checkpoint",
        "path": str(options.policy),
        "file": str(options.policy),
        "sha256": file_sha256(options.policy),
        "checkpoint_sha256": file_sha256(options.policy),
        "calibrated": False,
    }
    assert (record["options"]["task"], record["options"]["backend"]) == (options.task, "mujoco")
    assert (record["options"]["env"]["seed"], record["options"]["env"]["num_envs"]) == (3, 4)
    assert record["versions"]["deploy_kit"] == deploy_kit.__version__
    assert record["versions"]["torch"] == version("torch")
    assert flight["statistics"]["gates_per_episode"]["mean"] == result.statistics.gates_per_episode.mean
    assert flight["statistics"]["mean_speed"] is None
    for env, row in enumerate(flight["episodes"]):
        steps = scripted_racing.length_of(env, 0)
        assert row == {
            "env": env,
            "track_id": None,
            "track_kind": None,
            "track_difficulty": None,
            "gates": gates_of(env),
            "crashed": not scripted_racing.ends_by_time(env, 0),
            "steps": steps,
            "duration_s": pytest.approx(0.03 * steps),
            "mean_speed": None,
        }
    with pytest.raises(OptionError, match="--overwrite"):
        fly(replace(options, json_path=target))
    assert describe_flight(target)["flights"][0]["episodes"] == 4


def test_the_record_of_one_episode_is_valid_json(options, tmp_path):
    target = tmp_path / "flight.json"
    fly(replace(options, json_path=target, env=EnvOptions(num_envs=1)))

    def refuse(constant):
        raise AssertionError(constant)

    statistics = json.loads(target.read_text(), parse_constant=refuse)["flights"][0]["statistics"]
    assert statistics["gates_per_episode"] == {"mean": gates_of(0), "ci95": [None, None]}


def test_the_record_names_the_tracks_of_the_racing_task(checkpoint, tmp_path, one_thread):
    target = tmp_path / "flight.json"
    env = EnvOptions(num_envs=3, seed=2, num_threads=1)
    fly(FlyOptions(policy=checkpoint, env=env, json_path=target))
    rows = json.loads(target.read_text())["flights"][0]["episodes"]
    with MujocoRacingEnv(env) as racing:
        tracks = racing.tracks()
    assert [row["track_id"] for row in rows] == [track.track_id for track in tracks]
    assert [row["track_kind"] for row in rows] == [track.kind for track in tracks]
    assert all(row["mean_speed"] > 0 for row in rows)


def test_flights_of_the_racing_task_do_not_depend_on_the_threads(checkpoint, tmp_path):
    # More environments than the policy takes rows at a time, and than there are threads.
    rows = []
    for threads in (1, 3):
        target = tmp_path / f"{threads}.json"
        fly(FlyOptions(policy=checkpoint, env=EnvOptions(num_envs=10, seed=2, num_threads=threads), json_path=target))
        rows.append(json.loads(target.read_text())["flights"][0]["episodes"])
    assert rows[0] == rows[1]
    assert len({row["mean_speed"] for row in rows[0]}) == 10


@pytest.fixture
def other(checkpoint):
    """Another checkpoint of the same run, with another gate head and actor."""
    path = checkpoint.with_name("model_9.pt")
    entries = torch.load(checkpoint, weights_only=True)
    entries["model_state_dict"]["actor.0.weight"] = -entries["model_state_dict"]["actor.0.weight"]
    torch.save(entries, path)
    return path


def make_pushed(options):
    """A task in which policies differ: a positive first action passes a gate in the first step."""
    return PushedEnv(options.num_envs, options.seed, options.device)


class PushedEnv(scripted_racing.ScriptedEnv):
    def step(self, actions):
        first = [self.step_in_episode[env] == 0 for env in range(self.num_envs)]
        observation, reward, done, extras = super().step(actions)
        observation["auxiliary"][:, 0] = torch.tensor(first) & (actions[:, 0] > 0)
        return observation, reward, done, {**extras, "speed": actions[:, 0].abs()}


def test_two_policies_are_compared_in_pairs(options, other, tmp_path, monkeypatch):
    monkeypatch.setattr(scripted_racing, "make_pushed", make_pushed, raising=False)
    target = tmp_path / "flight.json"
    options = replace(
        options, env=EnvOptions(num_envs=8, seed=1), task="helpers.scripted_racing:make_pushed", json_path=target
    )
    result = fly(replace(options, compare_with=other))
    written = json.loads(target.read_text())
    assert [flight["policy"]["sha256"] for flight in written["flights"]] == [
        file_sha256(options.policy),
        file_sha256(other),
    ]
    first, second = (
        {
            name: np.array([row[name] for row in flight["episodes"]], float)
            for name in ("gates", "crashed", "mean_speed")
        }
        for flight in written["flights"]
    )
    assert not np.array_equal(first["gates"], second["gates"])
    assert written["comparison"]["paired"] is True
    differences = {figure["name"]: figure for figure in written["comparison"]["differences"]}
    assert list(differences) == ["gates", "crashed", "speed"]
    for name, key in (("gates", "gates"), ("crashed", "crashed"), ("speed", "mean_speed")):
        difference = second[key] - first[key]
        half = student_t.ppf(0.975, 7) * difference.std(ddof=1) / np.sqrt(8)
        assert differences[name]["difference"] == pytest.approx(difference.mean())
        assert differences[name]["ci95"] == pytest.approx([difference.mean() - half, difference.mean() + half])
        assert differences[name]["equal_pairs"] == (difference == 0).sum()
    # Each alone gives the same.
    for index, policy in enumerate((options.policy, other)):
        alone = fly(replace(options, policy=policy, overwrite=True))
        assert alone.flights[0] == result.flights[index]


def test_a_policy_compared_with_itself_differs_in_nothing(options):
    result = fly(replace(options, compare_with=options.policy))
    assert result.comparison.paired
    assert {figure.difference for figure in result.comparison.differences} == {0.0}
    assert result.comparison.differences[0].equal_pairs == 4


def test_a_comparison_needs_two_episodes(options):
    with pytest.raises(OptionError, match="at least 2"):
        fly(replace(options, compare_with=options.policy, env=EnvOptions(num_envs=1)))


def test_a_second_policy_that_does_not_fit_is_refused_before_any_flight(options, tmp_path, monkeypatch):
    monkeypatch.setattr("deploy_kit.flight.fly.fly_first_episodes", lambda *given: pytest.fail("it flew"))
    small = tmp_path / "small.safetensors"
    save_safetensors(small, small_network())
    with pytest.raises(TaskError, match="the policy takes 784"):
        fly(replace(options, compare_with=small))


def test_pictures_of_a_second_policy_lie_in_a_folder_of_their_own(options, other, tmp_path):
    folder = tmp_path / "pictures"
    result = fly(replace(options, compare_with=other, pictures=folder))
    names = ["actions.png", "auxiliary_prob.png", "depth.mp4"]
    second = [folder / "second" / name for name in names]
    assert list(result.pictures) == [*(folder / name for name in names), *second, folder / "index.html"]
    page = assert_self_contained((folder / "index.html").read_text())
    assert [flight["name"] for flight in page.data[0]["flights"]] == [
        "First policy, environment 0: 1 gate",
        "Second policy, environment 0: 1 gate",
    ]
    differences = result.comparison.differences
    for row, figure in zip(
        page.tables[next(name for name in page.tables if "minus" in name)][1:], differences, strict=True
    ):
        assert row[:2] == [figure.name, f"{figure.difference:+.3f} [{figure.ci95[0]:+.3f}, {figure.ci95[1]:+.3f}]"]
    with pytest.raises(OptionError, match="--overwrite"):
        fly(replace(options, compare_with=other, pictures=folder))


def test_a_task_with_another_observation_is_refused(options):
    with pytest.raises(TaskError, match="has 10 numbers, the policy takes 6928"):
        fly(replace(options, task="helpers.scripted_racing:make_small"))


def test_the_pictured_environment_must_exist(options, tmp_path):
    with pytest.raises(OptionError, match="environments 0 to 3"):
        fly(replace(options, picture_env=4, pictures=tmp_path / "pictures"))


def test_pictures_of_a_task_without_tracks_leave_the_track_out(options, tmp_path):
    result = fly(replace(options, pictures=tmp_path / "pictures"))
    names = ["actions.png", "auxiliary_prob.png", "depth.mp4", "index.html"]
    assert [path.name for path in result.pictures] == names
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == names
    page = assert_self_contained((tmp_path / "pictures" / "index.html").read_text())
    (flight,) = page.data[0]["flights"]
    assert (flight["position"], flight["track"], flight["speed"]) == (None, None, None)
    assert len(flight["command"][0]) == scripted_racing.length_of(0, 0)
    with av.open(str(tmp_path / "pictures" / "depth.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == scripted_racing.length_of(0, 0)


def test_the_pictures_show_the_flight_with_the_most_gates_where_none_is_named(options, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("deploy_kit.flight.fly.draw_flight", lambda folder, trace, *rest: shown.append(trace) or ())
    # Flights 1 and 3 crash.
    monkeypatch.setattr(scripted_racing, "label_of", lambda env, episode, step: step < (1, 3, 3, 2)[env])
    fly(replace(options, pictures=tmp_path / "pictures", picture_env=None))
    assert (shown[0].env, sum(shown[0].passed), shown[0].crashed) == (2, 3, False)


def test_the_page_says_what_the_record_says(options, tmp_path):
    target = tmp_path / "flight.json"
    fly(replace(options, pictures=tmp_path / "pictures", json_path=target))
    source = (tmp_path / "pictures" / "index.html").read_text()
    page = assert_self_contained(source)
    (flight,) = json.loads(target.read_text())["flights"]
    figures = flight["statistics"]

    def shown(name, form):
        low, high = (form.format(bound) for bound in figures[name]["ci95"])
        return f"{form.format(figures[name]['mean'])} [{low}, {high}]"

    rows = dict(page.tables["Means with 95 % intervals"])
    assert rows["gates per flight"] == shown("gates_per_episode", "{:.2f}")
    assert rows["crashes"] == shown("crash_rate", "{:.1%}")
    assert rows["mean speed (m/s)"] == "not measured"
    assert rows["gate head's AUROC"] == shown("gate_auroc", "{:.3f}")
    assert f"{figures['gates_per_episode']['mean']:.2f} gates per flight" in page.text
    assert flight["policy"]["sha256"][:12] in page.text
    assert page.text.index("gates per flight") < page.text.index("In the air")
    sweep = page.data[1]
    assert sweep["passages"] == sum(row["gates"] for row in flight["episodes"])
    assert sweep["chosen"] is None


@pytest.mark.parametrize(
    ("changes", "module", "extra"), [({"viewer": True}, "viser", "viewer"), ({"recording": "f.rrd"}, "rerun", "rerun")]
)
def test_viewers_that_are_not_installed_are_named_before_the_flight(
    options, tmp_path, monkeypatch, changes, module, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("deploy_kit.flight.fly.make_env", lambda *given: pytest.fail("flown"))
    changes = {name: tmp_path / value if name == "recording" else value for name, value in changes.items()}
    with pytest.raises(MissingDependencyError, match=rf"deploy-kit\[{extra}\]"):
        fly(replace(options, **changes))


def test_viewers_choose_among_the_first_flights_and_pictures_stay_what_they_were(options, tmp_path, monkeypatch):
    monkeypatch.setattr("deploy_kit.flight.fly.require_viewer", lambda: None)
    monkeypatch.setattr("deploy_kit.flight.fly.MOST_WATCHED", 2)
    with pytest.raises(TaskError, match="does not report positions"):
        fly(replace(options, viewer=True))
    monkeypatch.setattr("deploy_kit.flight.fly.require_rerun", lambda path: None)
    monkeypatch.setattr("deploy_kit.flight.fly.write_recording", lambda path, *given: recorded.append(given))
    recorded = []
    folder = tmp_path / "pictures"
    result = fly(replace(options, recording=tmp_path / "f.rrd", pictures=folder, picture_env=3))
    ((flights, shape, threshold),) = recorded
    assert [flight.trace.env for flight in flights] == [0, 1]
    assert (shape, threshold) == ((72, 96), None)
    assert result.watched.flights == flights
    (shown,) = assert_self_contained((folder / "index.html").read_text()).data[0]["flights"]
    assert shown["name"].startswith("Environment 3: ")


@pytest.mark.slow
def test_pictures_of_the_racing_task(checkpoint, tmp_path):
    folder = tmp_path / "pictures"
    options = FlyOptions(policy=checkpoint, env=EnvOptions(num_envs=1, seed=3), pictures=folder)
    result = fly(options)
    assert sorted(path.name for path in result.pictures) == [
        "actions.png",
        "auxiliary_prob.png",
        "depth.mp4",
        "index.html",
        "track.png",
    ], "an untrained policy passes no gate, so there is no still of a passage"
    assert result.statistics.mean_speed.mean > 0
    (shown,) = assert_self_contained((folder / "index.html").read_text()).data[0]["flights"]
    steps = result.flights[0].episodes[0].steps
    assert [len(shown[name][0]) for name in ("position", "quaternion", "command")] == [steps] * 3
    assert len(shown["track"]["centres"][0]) == 8
    for path in folder.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert pixels.shape[0] > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # something is drawn


def test_a_trace_follows_its_environment_to_the_end_of_its_first_episode(network):
    with MujocoRacingEnv(EnvOptions(num_envs=2, seed=1, num_threads=1)) as env:
        trace = FlightTrace(1, 0.03, 16, track=env.tracks()[1])
        seen = []
        for record in rollout(env, network, max_steps=200):
            if not trace.finished:
                seen.append(record.extras["position"][1].numpy().copy())
            trace.add(record)
    np.testing.assert_array_equal(np.stack(trace.position), np.stack(seen))
    assert trace.finished
    assert len(trace.action) == len(trace.probability) == len(trace.passed) == len(trace.depth) == len(seen)
    np.testing.assert_allclose(trace.time, 0.03 * np.arange(len(seen)))


def test_a_video_frame_shows_near_things_red_and_far_things_blue(tmp_path):
    depth = np.ones((72, 96), np.float32)
    depth[:, :48] = 0.05
    with DepthVideo(tmp_path / "v.mp4", (72, 96)) as video:
        frame = video.draw(depth, 0.5, passed=False).astype(int)
        passed = video.draw(depth, 0.5, passed=True)
        video.add(depth, 0.5, passed=False)
    near, far = frame[100, 100], frame[100, 500]
    assert near[0] > near[2] + 50
    assert far[2] > far[0]
    assert tuple(passed[0, 0]) == (94, 214, 130)
    assert not (tmp_path / "v.mp4.partial").exists()


def test_a_video_has_an_mp4_name(tmp_path):
    with pytest.raises(OptionError, match=r"\.mp4"):
        DepthVideo(tmp_path / "video.avi", (72, 96))

import json
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.flight.fly import FlyOptions, fly
from deploy_kit.flight.pictures.video import DepthVideo
from deploy_kit.flight.rollout import rollout
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.sim.mujoco.env import MujocoRacingEnv
from deploy_kit.sim.options import EnvOptions
from helpers import scripted_racing


@pytest.fixture
def options(checkpoint, vehicle) -> FlyOptions:
    return FlyOptions(
        policy=checkpoint, env=EnvOptions(num_envs=4), task="helpers.scripted_racing:make", vehicle_file=vehicle
    )


def test_statistics_are_those_of_the_script_and_written_as_json(options, tmp_path):
    target = tmp_path / "flight.json"
    result = fly(replace(options, json_path=target))
    gates = [sum(scripted_racing.label_of(i, 0, s) for s in range(scripted_racing.length_of(i, 0))) for i in range(4)]
    written = json.loads(target.read_text())
    assert written["episodes"] == 4
    assert written["gates_per_episode"]["mean"] == np.mean(gates) == result.statistics.gates_per_episode.mean
    assert written["crash_rate"]["mean"] == np.mean([not scripted_racing.ends_by_time(i, 0) for i in range(4)])
    assert written["mean_speed"] is None
    assert len(written["gate_auroc"]["ci95"]) == 2
    with pytest.raises(OptionError, match="--overwrite"):
        fly(replace(options, json_path=target))


def test_a_task_with_another_observation_is_refused(options):
    with pytest.raises(TaskError, match="has 10 numbers, the policy takes 6928"):
        fly(replace(options, task="helpers.scripted_racing:make_small"))


def test_the_pictured_environment_must_exist(options, tmp_path):
    with pytest.raises(OptionError, match="environments 0 to 3"):
        fly(replace(options, picture_env=4, pictures=tmp_path / "pictures"))


def test_pictures_of_a_task_without_tracks_leave_the_track_out(options, tmp_path):
    result = fly(replace(options, pictures=tmp_path / "pictures"))
    names = ["actions.png", "auxiliary_prob.png", "depth.mp4"]
    assert [path.name for path in result.pictures] == names
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == names
    with av.open(str(tmp_path / "pictures" / "depth.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == scripted_racing.length_of(0, 0)


def test_the_pictures_show_the_flight_with_the_most_gates_where_none_is_named(options, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("deploy_kit.flight.fly.draw_flight", lambda folder, trace, *rest: shown.append(trace) or ())
    # Flights 1 and 3 crash.
    monkeypatch.setattr(scripted_racing, "label_of", lambda env, episode, step: step < (1, 3, 3, 2)[env])
    fly(replace(options, pictures=tmp_path / "pictures", picture_env=None))
    assert (shown[0].env, sum(shown[0].passed), shown[0].crashed) == (2, 3, False)


@pytest.mark.slow
def test_pictures_of_the_racing_task(checkpoint, tmp_path):
    folder = tmp_path / "pictures"
    options = FlyOptions(policy=checkpoint, env=EnvOptions(num_envs=1, seed=3), pictures=folder)
    result = fly(options)
    assert sorted(path.name for path in result.pictures) == [
        "actions.png",
        "auxiliary_prob.png",
        "depth.mp4",
        "track.png",
    ], "an untrained policy passes no gate, so there is no still of a passage"
    assert result.statistics.mean_speed.mean > 0
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

import base64
import json

import numpy as np
import pytest
from mcap.reader import make_reader

from deploy_kit.flightlog.mcap_file import calibration
from deploy_kit.flightlog.reader import open_flight_log
from helpers.flight_logs import fly, open_recorded


@pytest.fixture
def log(run, tmp_path):
    policy = open_recorded(run.bundle, tmp_path / "flight.dklog")
    fly(policy, 5)
    policy.hold(np.array([9.0, 0.1, 0.2, 0.3]), 0.2)
    policy.reset()
    policy.close()
    return tmp_path / "flight.dklog"


def messages(path):
    with path.open("rb") as file:
        return [
            (channel.topic, schema.name, message.log_time, json.loads(message.data))
            for schema, channel, message in make_reader(file).iter_messages()
        ]


def test_converted_log_holds_the_same_numbers(cli, log, tmp_path):
    target = tmp_path / "flight.mcap"
    result = cli("log", "convert", log, target)
    assert result.code == 0, result.stderr
    assert "17 messages of 7 records" in result.stdout
    found = messages(target)
    with open_flight_log(log) as opened:
        steps = opened.flown
        of = {topic: [entry for entry in found if entry[0] == topic] for topic, *_ in found}
        assert {topic: len(entries) for topic, entries in of.items()} == {
            "/depth": 5,
            "/policy/state": 5,
            "/policy/output": 5,
            "/policy/event": 2,
        }
        for step, depth, state, output in zip(
            steps, of["/depth"], of["/policy/state"], of["/policy/output"], strict=True
        ):
            inputs = opened.inputs(step)
            assert depth[1] == "foxglove.RawImage"
            assert depth[2] == step.clock_ns
            image = np.frombuffer(base64.b64decode(depth[3]["data"]), "<f4")
            np.testing.assert_array_equal(image.reshape(depth[3]["height"], depth[3]["width"]), inputs.depth)
            assert depth[3]["encoding"] == "32FC1"
            assert state[3]["given"] == inputs.state.tolist()
            assert state[3]["network"]["last_action"] == inputs.network_state[12:].tolist()
            assert list(output[3]["command"].values()) == step.command.tolist()
            assert output[3]["gate_output"] == step.gate
            assert output[3]["fault"] is None
        assert [entry[3]["kind"] for entry in of["/policy/event"]] == ["hold", "reset"]
        assert of["/policy/event"][0][3]["command"] == [9.0, 0.1, 0.2, 0.3]
        with target.open("rb") as file:
            attachment = next(make_reader(file).iter_attachments())
        assert json.loads(attachment.data) == json.loads(json.dumps(opened.header))


def test_camera_of_the_contract_is_told_as_foxglove_tells_it():
    camera = {"width": 96, "height": 72, "fx": 58.0, "fy": 59.0, "cx": 47.5, "cy": 36.3}
    told = calibration({"camera": camera})
    assert (told["width"], told["height"]) == (96, 72)
    assert told["K"] == [58.0, 0, 47.5, 0, 59.0, 36.3, 0, 0, 1]
    assert told["P"] == [58.0, 0, 47.5, 0, 0, 59.0, 36.3, 0, 0, 0, 1, 0]
    assert calibration({"camera": None}) is None


def test_no_return_and_other_targets(cli, run, tmp_path):
    policy = open_recorded(run.bundle, tmp_path / "flight.dklog")
    fly(policy, 1, mistake=lambda state, depth: (state, np.where(depth > 6, np.inf, depth).astype(np.float32)))
    policy.close()
    target = tmp_path / "flight.mcap"
    assert cli("log", "convert", tmp_path / "flight.dklog", target).code == 0
    image = next(entry for entry in messages(target) if entry[0] == "/depth")[3]
    assert np.isinf(np.frombuffer(base64.b64decode(image["data"]), "<f4")).any()
    again = cli("log", "convert", tmp_path / "flight.dklog", target)
    assert (again.code, "exists" in again.stderr) == (2, True)
    other = cli("log", "convert", tmp_path / "flight.dklog", tmp_path / "flight.csv")
    assert (other.code, "no .mcap file" in other.stderr) == (2, True)

import base64
import json

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from mcap.writer import Writer

from deploy_kit.flightlog.mcap_file import calibration
from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.flightlog.records import LoggedStep
from deploy_kit.onboard import OnboardFault
from helpers.flight_logs import fly, open_recorded
from helpers.foreign_logs import OWN_MAPPING

METRES = {"from": "image", "unit": "m", "no_return": "inf"}


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
            if schema is not None
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


def records(path):
    """Return everything that a log holds."""
    with open_flight_log(path) as log:
        return (
            log.header,
            log.ended,
            [
                (repr(record), None if not isinstance(record, LoggedStep) else arrays(log.inputs(record)))
                for record in log.records
            ],
        )


def arrays(inputs):
    parts = (inputs.state, inputs.depth, inputs.network_state, inputs.network_image)
    return [None if part is None else (part.dtype, part.shape, part.tobytes()) for part in parts]


def test_import_of_what_was_converted_gives_the_same_records(cli, run, tmp_path):
    log, back = tmp_path / "flight.dklog", tmp_path / "back.dklog"
    policy = open_recorded(run.bundle, log)
    for kind in (np.float32, np.float64, np.float16):
        fly(policy, 2, mistake=lambda state, depth, kind=kind: (state.astype(kind), depth.astype(kind)))
        policy.hold(now=0.1)
        policy.hold(np.array([9.0, 0.1, 0.2, 0.3]), 0.2)
        policy.reset()
    for state, depth in ((np.full(12, np.nan), np.zeros(3)), ("no state", np.full((72, 96), 3, np.uint8))):
        with pytest.raises(OnboardFault):
            policy.step(state, depth, 0.3)
    policy.close()
    assert cli("log", "convert", log, tmp_path / "flight.mcap").code == 0
    result = cli("log", "import", tmp_path / "flight.mcap", back)
    assert (result.code, result.stdout) == (0, f"{back}: 17 records, as they were recorded\n")
    assert records(back) == records(log)
    steps = records(log)[2]
    assert sum("fault='" in text for text, _ in steps) == 2


def test_import_asks_for_what_it_needs(cli, refused, log, run, tmp_path):
    lean = tmp_path / "lean.mcap"
    assert cli("log", "convert", log, lean, "--without-records").code == 0
    target = tmp_path / "back.dklog"
    refused("log", "import", lean, target, words=("does not hold the records", "--mapping"))
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(OWN_MAPPING | {"depth": METRES}))
    refused("log", "import", lean, target, "--mapping", tmp_path / "mapping.yaml", words=("--bundle",))
    refused("log", "import", lean, tmp_path / "back.mcap", words=("no .dklog file",))
    refused("log", "import", log, target, words=("neither MCAP, nor ULog",))
    refused("log", "import", lean, target, "--without-records", words=("belongs to convert",))
    refused("log", "convert", log, tmp_path / "b.mcap", "--bundle", run.bundle, words=("belong to import",))
    result = cli("log", "import", lean, target, "--mapping", tmp_path / "mapping.yaml", "--bundle", run.bundle)
    assert (result.code, result.stdout) == (0, f"{target}: 5 steps\n")
    refused("log", "import", lean, target, words=("exists",))


def test_edited_records_are_refused(cli, refused, log, tmp_path):
    whole = tmp_path / "flight.mcap"
    assert cli("log", "convert", log, whole).code == 0
    edited = tmp_path / "edited.mcap"
    with whole.open("rb") as source, edited.open("wb") as file:
        reader, writer = make_reader(source), Writer(file)
        writer.start()
        channel = writer.register_channel("/deploy_kit/record", "deploy-kit-record", 0)
        header = next(reader.iter_attachments())
        writer.add_attachment(0, 0, header.name, header.media_type, header.data)
        for _, _, message in reader.iter_messages(topics=["/deploy_kit/record"]):
            writer.add_message(channel, message.log_time, message.data[:-1], message.log_time)
        writer.finish()
    refused("log", "import", edited, tmp_path / "back.dklog", words=("is not written", "cannot be read"))
    assert not (tmp_path / "back.dklog").exists()

"""Flights that other stacks logged become flight logs with the same inputs and outputs."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from deploy_kit.errors import FlightLogError
from deploy_kit.flightlog.importing import import_log
from deploy_kit.flightlog.mapping import parse_mapping, read_mapping
from deploy_kit.flightlog.mcap_file import write_mcap
from deploy_kit.flightlog.reader import open_flight_log
from helpers.foreign_logs import OWN_MAPPING, PX4_MAPPING, ROS_MAPPING, write_rosbag, write_ulog


def change(mapping, **places):
    """Return a mapping with values at paths such as quantities__gate__axes changed; None removes one."""
    changed = copy.deepcopy(mapping)
    for place, value in places.items():
        *parents, last = place.split("__")
        entry = changed
        for name in parents:
            entry = entry[name]
        if value is None:
            del entry[last]
        else:
            entry[last] = value
    return changed


@pytest.fixture(scope="module")
def sources(foreign_flight, tmp_path_factory):
    log, moments = foreign_flight
    folder = tmp_path_factory.mktemp("sources")
    bag = write_rosbag(folder / "mcapbag", moments, mcap=True)
    with open_flight_log(log) as opened:
        write_mcap(opened, folder / "own.mcap", records=False)
    return {
        "rosbag": (write_rosbag(folder / "bag", moments), ROS_MAPPING),
        "mcap of ROS 2": (next(bag.glob("*.mcap")), ROS_MAPPING),
        "ulog": (write_ulog(folder / "flight.ulg", moments), PX4_MAPPING),
        "own mcap": (folder / "own.mcap", OWN_MAPPING),
    }


def imported(run, source, target, mapping=None, **places):
    path, known = source
    return import_log(path, target, run.bundle, parse_mapping(change(mapping or known, **places), "mapping"))


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("rosbag", 1e-12), ("mcap of ROS 2", 1e-12), ("ulog", 2e-6), ("own mcap", 0.0)]
)
def test_import_equals_what_our_recorder_wrote(run, foreign_flight, sources, tmp_path, kind, tolerance):
    result = imported(run, sources[kind], tmp_path / "flight.dklog")
    assert (result.steps, result.left_out) == (90, {})
    with open_flight_log(tmp_path / "flight.dklog") as found, open_flight_log(foreign_flight[0]) as ours:
        assert found.ended == "imported"
        for step, right in zip(found.steps, ours.steps[-90:], strict=True):
            inputs, wanted = found.inputs(step), ours.inputs(right)
            assert inputs.depth.dtype == np.uint16
            np.testing.assert_array_equal(inputs.depth, wanted.depth)
            np.testing.assert_allclose(inputs.state[:12], wanted.state, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(step.command, right.command, rtol=1e-12)
            np.testing.assert_allclose(step.acting, right.acting, rtol=1e-12)
            if kind in ("ulog", "own mcap"):
                np.testing.assert_allclose(step.gate, right.gate, rtol=1e-5, atol=1e-5)
                assert step.event is right.event
        now = [step.times[0] for step in found.steps]
        np.testing.assert_allclose(np.diff(now), np.diff([step.times[0] for step in ours.steps[-90:]]), atol=1e-6)
        assert found.header["options"]["depth_in_millimetres"]
        assert found.header["options"]["zero_is_no_return"] is (kind != "own mcap")


def test_what_a_log_lacks_is_told(run, foreign_flight, sources, tmp_path):
    assert imported(run, sources["rosbag"], tmp_path / "a.dklog").lacks == (
        *("graph_output", "gate_output", "gate_passed", "gate_event", "duration"),
    )
    assert imported(run, sources["own mcap"], tmp_path / "b.dklog").lacks == ()
    blind = write_ulog(tmp_path / "blind.ulg", foreign_flight[1][:5], depth=False), PX4_MAPPING
    with pytest.raises(FlightLogError, match="holds no message of depth_image for depth: record it") as error:
        imported(run, blind, tmp_path / "c.dklog")
    assert "vehicle_attitude" in str(error.value)
    assert not (tmp_path / "c.dklog").exists()


@pytest.mark.parametrize(
    ("kind", "places", "words"),
    [
        ("ulog", {"quantities__gate": None}, "target_position needs gate and .*, and it names no gate"),
        ("rosbag", {"terms__base_lin_vel": None, "terms": {}}, "base_lin_vel needs velocity"),
        ("ulog", {"quantities__attitude__order": None}, "give order"),
        ("ulog", {"quantities__position__field": ["x", "y", "altitude"]}, "no field 'altitude'"),
        ("ulog", {"quantities__position__field": ["x", "y"]}, "has 2 numbers, expected 3"),
        ("ulog", {"depth__unit": "m"}, "give the unit mm"),
        ("ulog", {"depth__field": "deep"}, "no field 'deep'"),
        ("ulog", {"topics__gate__topic": "race_gates"}, "did you mean 'race_gate'"),
        ("ulog", {"topics__gate__instance": 1}, r"no message of race_gate\[1\] for gate, next_gate"),
        ("rosbag", {"topics__gate__clock": {"field": "header.stamp.sec", "unit": "stamp"}}, "no time in stamp"),
        ("rosbag", {"topics__odometry__clock": {"offset_s": 3600.0}}, "90 without base_lin_vel"),
        ("rosbag", {"outputs__thrust__from": "odometry", "outputs__thrust__field": ["twist.twist.linear.x"],
                    "topics__odometry__clock": {"offset_s": -60.0}}, "its clock is another one"),
        ("rosbag", {"depth__camera": {"width": 1280, "height": 720, "fx": 1, "fy": 1, "cx": 1, "cy": 1}}, "camera"),
        ("rosbag", {"outputs__thrust__unit": "N"}, "give mass_kg"),
        ("rosbag", {"steps__from": "commands"}, "none of its topics"),
        ("rosbag", {"quantities__gate__axes": "FLU"}, r"mapping.quantities.gate.axes: 'FLU' is not one of"),
        ("rosbag", {"quantities__gate__unit": None}, "'unit' is a required property"),
        ("rosbag", {"depth": None}, "'depth' is a required property"),
        ("rosbag", {"quantities__gate__field": "point.__class__"}, "mapping.quantities.gate.field"),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped_is_named(run, sources, tmp_path, kind, places, words):
    with pytest.raises(FlightLogError, match=words):
        imported(run, sources[kind], tmp_path / "flight.dklog", **places)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"topics__place__clock": {"offset_s": float("nan")}}, "a number in it is not finite"),
        ({"topics__place__clock": {"offset_s": float("inf")}}, "offset_s: inf is greater than"),
        ({"topics__place__clock": {"offset_s": 1e300}}, "offset_s: 1e.300 is greater than"),
        ({"mass_kg": float("nan")}, "a number in it is not finite"),
        ({"mass_kg": 1e-320}, "mass_kg: .* is less than"),
        ({"mass_kg": 10**400}, "mass_kg: 1000"),
        ({"topics": {1: {"topic": "odom"}}}, "mapping.topics: 1 is not of type 'string'"),
    ],
)
def test_numbers_and_names_that_no_log_has_are_refused(places, words):
    with pytest.raises(FlightLogError, match=words):
        parse_mapping(change(PX4_MAPPING, **places), "mapping")


def test_units_axes_and_mass_are_converted(run, sources, tmp_path):
    imported(run, sources["ulog"], tmp_path / "right.dklog")
    imported(
        run, sources["ulog"], tmp_path / "other.dklog", mass_kg=2.0,
        quantities__velocity__unit="km/h", quantities__position__axes="ENU", outputs__thrust__unit="N",
        outputs__body_rates__axes="FLU",
    )  # fmt: skip
    with open_flight_log(tmp_path / "right.dklog") as right, open_flight_log(tmp_path / "other.dklog") as other:
        for a, b in zip(right.steps, other.steps, strict=True):
            x, y = right.inputs(a).state, other.inputs(b).state
            np.testing.assert_allclose(y[:3], x[:3] / 3.6, rtol=1e-9)
            np.testing.assert_allclose(y[9:12], x[9:12])
            np.testing.assert_allclose(b.command, [a.command[0] / 9.80665 / 2, *(a.command[1:] * (1, -1, -1))])
        assert not np.allclose(y[6:9], x[6:9], atol=0.1)


def test_in_flight_leaves_out_the_steps_whose_acting_command_is_unknown(run, sources, tmp_path):
    result = imported(run, sources["ulog"], tmp_path / "flight.dklog", begins="in flight")
    with open_flight_log(tmp_path / "flight.dklog") as log:
        waits = round(log.header["contract"]["timing"]["action_latency_steps"]["value"]) + 1
        assert (result.steps, result.left_out) == (90 - waits, {"the commands before": waits})
        assert [step.sequence for step in log.steps] == list(range(waits + 1, 91))


def test_a_missing_step_leaves_the_next_commands_open(run, foreign_flight, tmp_path):
    moments = foreign_flight[1]
    source = write_ulog(tmp_path / "gap.ulg", moments[:20] + moments[22:]), PX4_MAPPING
    result = imported(run, source, tmp_path / "flight.dklog")
    with open_flight_log(tmp_path / "flight.dklog") as log:
        waits = round(log.header["contract"]["timing"]["action_latency_steps"]["value"]) + 1
        assert result.left_out == {"the commands before": waits}
        assert log.missing == waits


@pytest.mark.parametrize("kind", ["rosbag", "mcap of ROS 2", "ulog", "own mcap"])
def test_damaged_sources_are_refused_in_one_line(run, sources, tmp_path, kind):
    path, mapping = sources[kind]
    whole = (next(path.glob("*.db3")) if path.is_dir() else path).read_bytes()
    rng, refused = np.random.default_rng(0), []
    for number in range(6):
        damaged = bytearray(whole[: int(rng.uniform(0.1, 1.0) * len(whole))] if number % 2 else whole)
        for place in rng.integers(8, len(damaged), 40):
            damaged[place] ^= int(rng.integers(1, 256))
        source = tmp_path / f"damaged{number}{path.suffix or '.db3'}"
        source.write_bytes(bytes(damaged))
        target = tmp_path / f"{number}.dklog"
        try:
            imported(run, (source, mapping), target)
        except FlightLogError as error:
            refused.append(str(error))
            assert not target.exists()
    assert refused
    assert not any("\n" in text for text in refused)


def test_what_is_no_log_is_refused(run, tmp_path):
    for name, content in (("a.bin", b"something"), ("b.ulg", b""), ("c.mcap", b"\x89MCAP0\r\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FlightLogError):
            imported(run, (tmp_path / name, PX4_MAPPING), tmp_path / "flight.dklog")
    with pytest.raises(FlightLogError, match="no rosbag2"):
        imported(run, (tmp_path, PX4_MAPPING), tmp_path / "flight.dklog")
    with pytest.raises(FlightLogError, match="cannot be read"):
        imported(run, (tmp_path / "absent.ulg", PX4_MAPPING), tmp_path / "flight.dklog")


def test_mapping_files(tmp_path):
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(PX4_MAPPING))
    (tmp_path / "mapping.json").write_text(json.dumps(PX4_MAPPING))
    assert read_mapping(tmp_path / "mapping.yaml") == read_mapping(tmp_path / "mapping.json")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(FlightLogError, match=r"list\.yaml"):
        read_mapping(tmp_path / "list.yaml")


def test_the_pages_mapping_is_one():
    text = (Path(__file__).resolve().parents[3] / "docs" / "flight-log.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1)
    mapping = parse_mapping(yaml.safe_load(block), "the page")
    assert sorted(mapping.signals) == [
        *("attitude", "body_rates", "gate", "gate_output", "next_gate", "position", "thrust", "velocity"),
    ]
    assert mapping.at_reset

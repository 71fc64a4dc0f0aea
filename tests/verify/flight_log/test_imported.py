"""Imported logs: a right mapping passes, a wrong one is caught and named."""

import copy

import pytest

from deploy_kit.flightlog.importing import import_log
from deploy_kit.flightlog.mapping import parse_mapping
from deploy_kit.verify.report import Status
from helpers.flight_checks import failures, note, verify
from helpers.foreign_logs import PX4_MAPPING, ROS_MAPPING, write_rosbag, write_ulog


@pytest.fixture(scope="module")
def sources(foreign_flight, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    moments = foreign_flight[1]
    return {
        "rosbag": (write_rosbag(folder / "bag", moments), ROS_MAPPING),
        "ulog": (write_ulog(folder / "flight.ulg", moments), PX4_MAPPING),
    }


@pytest.fixture
def judged(run, sources, tmp_path):
    def judge(kind, change=lambda mapping: None):
        source, mapping = sources[kind]
        mapping = copy.deepcopy(mapping)
        change(mapping)
        log = tmp_path / "flight.dklog"
        import_log(source, log, run.bundle, parse_mapping(mapping, "mapping"))
        return verify(run, log, tmp_path)

    return judge


@pytest.mark.parametrize("kind", ["rosbag", "ulog"])
def test_right_mapping_passes(judged, kind):
    report = judged(kind)
    assert failures(report) == {}
    counts = {check.name: getattr(check, "rows", getattr(check, "count", None)) for check in report.checks}
    assert counts["flight-log/outputs"] == counts["flight-log/motion"] + 1 == 90
    assert "imported from" in note(report, "bundle")
    statuses = {verdict.name.removeprefix("flight-log/"): verdict.status for verdict in report.verdicts}
    # Neither stack logs what the network saw or the graph's own output; ROS not the gate's either.
    skipped = {"observation", "commands", "distribution", "replay/torchscript"} | (
        {"gate"} if kind == "rosbag" else set()
    )
    assert {name for name, status in statuses.items() if status is not Status.PASSED} == skipped
    switched = {
        check.name.removeprefix("flight-log/")
        for check in report.checks
        if getattr(check, "switch", None) == "log import"
    }
    assert switched == skipped - {"distribution", "replay/torchscript"}


WRONG = {
    "body velocity in FRD": ("rosbag", "terms.base_lin_vel.axes", "FRD", "base_lin_vel does not fit the motion"),
    "gate in NED": ("rosbag", "quantities.gate.axes", "NED", None),
    "world velocity in ENU": ("ulog", "quantities.velocity.axes", "ENU", None),
    "attitude of FLU": ("ulog", "quantities.attitude.axes", "FLU to ENU", "target_position does not fit the motion"),
    "real part last": ("ulog", "quantities.attitude.order", "xyzw", "base_orientation does not move as"),
    "km/h": ("ulog", "quantities.velocity.unit", "km/h", "(m/s in place of km/h)"),
    "rates in FLU": ("ulog", "outputs.body_rates.axes", "FLU", "forward-right-down in place of forward-left-up"),
    "zeros as returns": ("ulog", "depth.no_return", "inf", None),
    "another clock": ("ulog", "topics.place.clock", {"offset_s": -0.03}, None),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_mapping_is_caught(judged, mistake):
    kind, path, value, cause = WRONG[mistake]

    def change(mapping):
        *parents, last = path.split(".")
        for name in parents:
            mapping = mapping[name]
        mapping[last] = value

    report = judged(kind, change)
    found = failures(report)
    assert set(found) == {"outputs"} | ({"motion"} if cause else set())
    assert "the log was imported: inputs that are mapped in another unit, axes" in note(report, "outputs")
    if cause:
        assert cause in found["motion"]

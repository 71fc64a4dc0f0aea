"""The same flight as other stacks log it: ROS 2 in a rosbag2, PX4's conventions in a ULog. Written by the libraries."""

import io
import struct
from pathlib import Path

import numpy as np
import pyulog
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from deploy_kit.onboard.assembly import _quaternion
from deploy_kit.onboard.frames import frd_from_flu, frd_to_ned_from_flu_to_enu, ned_from_enu
from helpers.flight_logs import Moment

START_NS = 1_700_000_000_000_000_000
"""When the bag begins."""

_COMMAND = [f"command.{name}" for name in ("thrust", "body_rate_x", "body_rate_y", "body_rate_z")]

ROS_MAPPING = {
    "mapping_version": 1,
    "name": "odometry of ROS 2",
    "begins": "at reset",
    "topics": {
        "odometry": {"topic": "/odom", "clock": {"field": "header.stamp", "unit": "stamp"}},
        "gate": {"topic": "/gate"},
        "next_gate": {"topic": "/next_gate"},
        "image": {"topic": "/camera/depth", "clock": {"field": "header.stamp", "unit": "stamp"}},
        "setpoint": {"topic": "/setpoint", "clock": {"field": "header.stamp", "unit": "stamp"}},
    },
    "steps": {"from": "setpoint"},
    "terms": {
        "base_lin_vel": {"from": "odometry", "field": "twist.twist.linear", "unit": "m/s", "axes": "FLU"},
    },
    "quantities": {
        "position": {"from": "odometry", "field": "pose.pose.position", "unit": "m", "axes": "ENU"},
        "attitude": {"from": "odometry", "field": "pose.pose.orientation", "axes": "FLU to ENU"},
        "gate": {"from": "gate", "field": "point", "unit": "m", "axes": "ENU"},
        "next_gate": {"from": "next_gate", "field": "point", "unit": "m", "axes": "ENU"},
    },
    "depth": {"from": "image", "unit": "mm", "no_return": "zero"},
    "outputs": {
        "thrust": {"from": "setpoint", "field": ["twist.linear.z"], "unit": "m/s2"},
        "body_rates": {"from": "setpoint", "field": "twist.angular", "unit": "rad/s", "axes": "FLU"},
    },
}

PX4_MAPPING = {
    "mapping_version": 1,
    "name": "PX4",
    "begins": "at reset",
    "topics": {
        "place": {"topic": "vehicle_local_position"},
        "attitude": {"topic": "vehicle_attitude"},
        "gate": {"topic": "race_gate"},
        "image": {"topic": "depth_image"},
        "policy": {"topic": "policy_output"},
    },
    "steps": {"from": "policy"},
    "quantities": {
        "position": {"from": "place", "field": ["x", "y", "z"], "unit": "m", "axes": "NED"},
        "velocity": {"from": "place", "field": ["vx", "vy", "vz"], "unit": "m/s", "axes": "NED"},
        "attitude": {"from": "attitude", "field": "q", "order": "wxyz", "axes": "FRD to NED"},
        "gate": {"from": "gate", "field": "position", "unit": "m", "axes": "NED"},
        "next_gate": {"from": "gate", "field": "next_position", "unit": "m", "axes": "NED"},
    },
    "depth": {"from": "image", "field": "depth", "unit": "mm", "no_return": "zero"},
    "outputs": {
        "thrust": {"from": "policy", "field": ["thrust"], "unit": "g"},
        "body_rates": {"from": "policy", "field": "rates", "unit": "deg/s", "axes": "FRD"},
        "gate_output": {"from": "policy", "field": ["gate"]},
        "gate_event": {"from": "policy", "field": ["event"]},
    },
}


OWN_MAPPING = {
    "mapping_version": 1,
    "name": "deploy-kit's own topics",
    "begins": "at reset",
    "topics": {
        "state": {"topic": "/policy/state", "clock": {"field": "state_time", "unit": "s"}},
        "image": {"topic": "/depth", "clock": {"field": "depth_time", "unit": "s"}},
        "output": {"topic": "/policy/output", "clock": {"field": "now", "unit": "s"}},
    },
    "steps": {"from": "output"},
    "state": {"from": "state", "field": "given"},
    "depth": {"from": "image", "unit": "mm", "no_return": "inf"},
    "outputs": {
        "command": {"from": "output", "field": _COMMAND},
        "graph_output": {"from": "output", "field": "graph_output"},
        "gate_output": {"from": "output", "field": "gate_output"},
        "gate_passed": {"from": "output", "field": "gate_passed"},
        "gate_event": {"from": "output", "field": "gate_event"},
        "duration": {"from": "output", "field": "duration_ms", "unit": "ms"},
    },
}


def write_rosbag(path: Path, moments: list[Moment], mcap: bool = False) -> Path:
    """Write a rosbag2 by ROS_MAPPING, its database SQLite or MCAP."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    kind = store.types
    header, point, vector = (
        kind[name] for name in ("std_msgs/msg/Header", "geometry_msgs/msg/Point", "geometry_msgs/msg/Vector3")
    )

    def stamp(now: float) -> object:
        time_ns = START_NS + round(now * 1e9)
        return header(kind["builtin_interfaces/msg/Time"](time_ns // 10**9, time_ns % 10**9), "map")

    def odometry(moment: Moment) -> object:
        w, x, y, z = _quaternion(moment.rotation)
        pose = kind["geometry_msgs/msg/Pose"](point(*moment.position), kind["geometry_msgs/msg/Quaternion"](x, y, z, w))
        twist = kind["geometry_msgs/msg/Twist"](vector(*(moment.rotation.T @ moment.velocity)), vector(0.0, 0.0, 0.0))
        return kind["nav_msgs/msg/Odometry"](
            stamp(moment.now - 0.002),
            "base_link",
            kind["geometry_msgs/msg/PoseWithCovariance"](pose, np.zeros(36)),
            kind["geometry_msgs/msg/TwistWithCovariance"](twist, np.zeros(36)),
        )

    def image(moment: Moment) -> object:
        height, width = moment.depth.shape
        data = np.ascontiguousarray(moment.depth, "<u2").view(np.uint8).reshape(-1)
        stamped = stamp(moment.now - 0.004)
        return kind["sensor_msgs/msg/Image"](stamped, height, width, "16UC1", 0, 2 * width, data)

    def setpoint(moment: Moment) -> object:
        thrust, *rates = moment.output.command
        twist = kind["geometry_msgs/msg/Twist"](vector(0.0, 0.0, thrust), vector(*rates))
        return kind["geometry_msgs/msg/TwistStamped"](stamp(moment.now), twist)

    def gate(moment: Moment, index: int) -> object:
        return kind["geometry_msgs/msg/PointStamped"](stamp(moment.now), point(*moment.gates[index]))

    topics = {
        "/odom": (odometry, moments),
        "/camera/depth": (image, moments),
        "/setpoint": (setpoint, moments),
        # As long as the gate stays, it is told once.
        "/gate": (lambda moment: gate(moment, 0), moments[:1]),
        "/next_gate": (lambda moment: gate(moment, 1), moments[:1]),
    }
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3) as writer:
        for topic, (make, told) in topics.items():
            name = make(told[0]).__msgtype__
            connection = writer.add_connection(topic, name, typestore=store)
            for moment in told:
                # Written a little later than measured, as it is.
                time_ns = START_NS + round(moment.now * 1e9) - (1_000_000 if "gate" in topic else -1_000_000)
                writer.write(connection, time_ns, store.serialize_cdr(make(moment), name))
    return path


def write_ulog(path: Path, moments: list[Moment], depth: bool = True) -> Path:
    """Write a ULog by PX4_MAPPING; pyulog writes it anew, so that it is its own."""
    rows, columns = moments[0].depth.shape
    formats = {
        "vehicle_local_position": ("uint64_t timestamp;float x;float y;float z;float vx;float vy;float vz;", "<Q6f"),
        "vehicle_attitude": ("uint64_t timestamp;float[4] q;", "<Q4f"),
        "race_gate": ("uint64_t timestamp;float[3] position;float[3] next_position;", "<Q6f"),
        "policy_output": ("uint64_t timestamp;double thrust;double[3] rates;float gate;uint8_t event;", "<Q4dfB"),
        "depth_image": (f"uint64_t timestamp;uint16_t[{rows * columns}] depth;", f"<Q{rows * columns}H"),
    }
    names = [name for name in formats if depth or name != "depth_image"]
    data = [b"ULog\x01\x12\x35\x01" + struct.pack("<Q", 0)]

    def message(kind: str, payload: bytes) -> None:
        data.append(struct.pack("<HB", len(payload), ord(kind)) + payload)

    for name in names:
        message("F", f"{name}:{formats[name][0]}".encode())
    for number, name in enumerate(names):
        message("A", struct.pack("<BH", 0, number) + name.encode())
    for moment in moments:
        thrust, *rates = moment.output.command
        content = {
            "vehicle_local_position": (*ned_from_enu(moment.position), *ned_from_enu(moment.velocity)),
            "vehicle_attitude": frd_to_ned_from_flu_to_enu(_quaternion(moment.rotation)),
            "race_gate": (*ned_from_enu(moment.gates[0]), *ned_from_enu(moment.gates[1])),
            "policy_output": (
                *(thrust / 9.80665, *np.degrees(frd_from_flu(rates))),
                *(_logit(moment), bool(moment.output.gate_event)),
            ),
            "depth_image": moment.depth.ravel(),
        }
        for number, name in enumerate(names):
            # Microseconds since the autopilot's start.
            time_us = 5_000_000 + round(moment.now * 1e6)
            message("D", struct.pack("<H", number) + struct.pack(formats[name][1], time_us, *content[name]))
    pyulog.ULog(io.BytesIO(b"".join(data))).write_ulog(str(path))
    return path


def _logit(moment: Moment) -> float:
    probability = moment.output.gate_probability
    return float(np.log(probability / (1 - probability)))

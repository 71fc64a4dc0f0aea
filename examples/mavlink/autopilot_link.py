"""The connection to the autopilot: MAVLink 2 through pymavlink, and who may speak on it."""

import os
from typing import Any

# pymavlink chooses dialect and version when it is imported; ODOMETRY needs version 2.
os.environ.setdefault("MAVLINK20", "1")
os.environ.setdefault("MAVLINK_DIALECT", "common")

from pymavlink import mavutil  # after the choice above

mavlink = mavutil.mavlink

COMPANION = mavlink.MAV_COMP_ID_ONBOARD_COMPUTER


class AutopilotLink:
    """A MAVLink connection on which one autopilot is listened to.

    Args:
        address: as pymavlink takes it: "udpin:0.0.0.0:14540", "/dev/ttyAMA0", …
        baud: of a serial line.
        system: system id of the autopilot; its other components and other systems are not listened to.

    Attributes:
        mav: packs and sends messages.
    """

    def __init__(self, address: str, baud: int = 921600, system: int = 1) -> None:
        self._connection = mavutil.mavlink_connection(
            address, baud=baud, source_system=system, source_component=COMPANION
        )
        self._system = system
        self.mav: Any = self._connection.mav

    @property
    def port(self) -> int:
        """UDP port that is listened on."""
        port: int = self._connection.port.getsockname()[1]
        return port

    def wait(self, seconds: float) -> bool:
        """Wait for data; return whether there is some."""
        return bool(self._connection.select(max(seconds, 0.0)))

    def receive(self) -> Any:
        """Return the autopilot's next message that has arrived, None if there is none."""
        while (message := self._connection.recv_match(blocking=False)) is not None:
            own = (self._system, mavlink.MAV_COMP_ID_AUTOPILOT1)
            if message.get_type() != "BAD_DATA" and (message.get_srcSystem(), message.get_srcComponent()) == own:
                return message
        return None

    def request(self, message_id: int, period_s: float) -> None:
        """Ask the autopilot to send a message each so many seconds."""
        self.mav.command_long_send(
            self._system,
            mavlink.MAV_COMP_ID_AUTOPILOT1,
            mavlink.MAV_CMD_SET_MESSAGE_INTERVAL,
            0,
            message_id,
            round(1e6 * period_s),
            *([0] * 5),
        )

    def heartbeat(self) -> None:
        """Say that a companion computer is here."""
        self.mav.heartbeat_send(
            mavlink.MAV_TYPE_ONBOARD_CONTROLLER, mavlink.MAV_AUTOPILOT_INVALID, 0, 0, mavlink.MAV_STATE_ACTIVE
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

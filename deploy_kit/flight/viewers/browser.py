"""Flights in the browser, in three dimensions, served by viser: track, drone, camera, gate probability, commands."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from deploy_kit.errors import MissingDependencyError
from deploy_kit.flight.pictures.widget import ShownFlight
from deploy_kit.flight.solids import surface_of
from deploy_kit.flight.viewers.camera import camera_pose, coloured, vertical_fov
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS
from deploy_kit.text import printable

DEFAULT_PORT = 8080

_GATE, _OBSTACLE, _GROUND, _DRONE = (29, 111, 184), (120, 130, 140), (225, 229, 234), (200, 40, 40)
_IMAGE_SCALE = 4
_SPEEDS = ("0.1", "0.25", "0.5", "1", "2")


def require_viewer() -> None:
    """Raise MissingDependencyError if viser is not installed; asked for before a flight that it is to show."""
    try:
        import viser  # noqa: F401  # whether it is there is all that is asked
    except ImportError as error:
        raise MissingDependencyError("--viewer needs viser; pip install 'deploy-kit[viewer]'") from error


class FlightViewer:
    """Serves flights to a browser on this machine until it is closed. Use it as a context manager.

    Args:
        flights: at least one, each with positions.
        image_shape: (rows, columns) of the depth image.
        threshold: of the gate probability, None if unknown.
        port: where it is served; the next free one is taken if it is in use.
        host: address to listen at; the default is reached from this machine alone.

    Attributes:
        server: viser's server.
        step: step that is shown.
        flight: flight that is shown.
    """

    def __init__(
        self,
        flights: Sequence[ShownFlight],
        image_shape: tuple[int, int],
        threshold: float | None,
        port: int = DEFAULT_PORT,
        host: str = "127.0.0.1",
    ) -> None:
        import viser

        self._flights, self._image_shape, self._threshold = list(flights), image_shape, threshold
        # Flights' names are the choice's texts, which must differ.
        self._names = [f"{index + 1}. {printable(flight.name)}" for index, flight in enumerate(self._flights)]
        self.server = viser.ViserServer(host=host, port=port, label="deploy-kit: flight", verbose=False)
        self.flight, self.step = self._flights[0], 0
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._make_controls()
        self.choose(self._names[0])
        self._player = threading.Thread(target=self._play, name="flight viewer", daemon=True)
        self._player.start()

    @property
    def url(self) -> str:
        """Where the browser finds it."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def _make_controls(self) -> None:
        gui = self.server.gui
        self.choice = gui.add_dropdown("Flight", self._names)
        self.about = gui.add_markdown("")
        self.playing = gui.add_checkbox("Play", False)
        self.speed = gui.add_dropdown("Speed", _SPEEDS, initial_value="1")
        self.slider = gui.add_slider("Step", 0, 1, 1, 0)
        self.clock = gui.add_text("Time", "", disabled=True)
        self.image = gui.add_image(np.zeros((*self._image_shape, 3), np.uint8), label="Depth camera")
        self.gate = gui.add_text("Gate", "", disabled=True, hint="gate probability, of its threshold")
        self.gate_bar = gui.add_progress_bar(0.0)
        names = zip(ACTION_NAMES, ACTION_UNITS, strict=True)
        self.commands = [gui.add_text(_short(name), "", disabled=True, hint=f"{name}, {unit}") for name, unit in names]
        self.motion = gui.add_text("Motion", "", disabled=True, hint="height, speed")

        self.choice.on_update(lambda _: self.choose(self.choice.value))
        self.slider.on_update(lambda _: self.show(int(self.slider.value)))

    def choose(self, name: str) -> None:
        """Show another flight from its beginning, by its text in the choice."""
        with self._lock:
            self.flight = self._flights[self._names.index(name)]
            self.server.scene.reset()
            self.server.scene.set_up_direction("+z")
            self._draw_track()
            self._draw_path()
            scene, rows, columns = self.server.scene, *self._image_shape
            self.drone = scene.add_frame("/drone", axes_length=0.35, axes_radius=0.015)
            scene.add_icosphere("/drone/body", 0.1, _DRONE)
            self.frustum = scene.add_camera_frustum(
                "/camera", vertical_fov(), columns / rows, scale=0.6, color=(30, 30, 30)
            )
            self.about.content = _markdown(self.flight.about)
            self.slider.max = len(self.flight.trace.action) - 1
            self.show(0)

    def _draw_track(self) -> None:
        trace, scene = self.flight.trace, self.server.scene
        extent = np.stack(trace.position)
        if trace.track is not None:
            for role, colour in (("gate", _GATE), ("obstacle", _OBSTACLE)):
                surface = surface_of([solid for solid in trace.track.primitives if solid.role == role])
                if len(surface.faces):
                    scene.add_mesh_simple(f"/track/{role}s", surface.vertices, surface.faces, color=colour)
            for index, (centre, size) in enumerate(
                zip(trace.track.gate_positions, trace.track.gate_sizes, strict=True), 1
            ):
                scene.add_label(
                    f"/track/number {index}", str(index), position=centre + np.array([0.0, 0.0, size[1] / 2 + 0.4])
                )
            extent = np.concatenate([extent, trace.track.gate_positions])
        low, high = extent[:, :2].min(axis=0) - 3.0, extent[:, :2].max(axis=0) + 3.0
        corners = np.array([[*low, 0.0], [high[0], low[1], 0.0], [*high, 0.0], [low[0], high[1], 0.0]])
        scene.add_mesh_simple("/ground", corners, np.array([[0, 1, 2], [0, 2, 3]]), color=_GROUND, side="double")

    def _draw_path(self) -> None:
        from matplotlib import colors

        trace = self.flight.trace
        points = np.stack(trace.position)
        values = np.sqrt(trace.probability) if trace.probability else np.array(trace.speed) / max(1e-6, *trace.speed)
        ramp = colors.LinearSegmentedColormap.from_list("gate", ["#a3b8d9", "#4f6bd6", "#8b2fc9", "#e11d48"])
        shade = (np.asarray(ramp(np.nan_to_num(values)))[:, :3] * 255).astype(np.uint8)
        segments = np.stack([points[:-1], points[1:]], axis=1)
        self.server.scene.add_line_segments("/path", segments, np.stack([shade[1:], shade[1:]], axis=1), thickness=0.04)

    def show(self, step: int) -> None:
        """Show one step of the flight."""
        with self._lock:
            trace = self.flight.trace
            step = self.step = min(max(step, 0), len(trace.action) - 1)
            attitude = trace.quaternion[step] if trace.quaternion else np.array([1.0, 0.0, 0.0, 0.0])
            position = trace.position[step]
            centre, turned = camera_pose(position, attitude)
            picture = coloured(trace.depth[step], self._image_shape)
            with self.server.atomic():
                self.drone.position, self.drone.wxyz = position, attitude
                self.frustum.position, self.frustum.wxyz, self.frustum.image = centre, turned, picture
            self.image.image = np.repeat(np.repeat(picture, _IMAGE_SCALE, axis=0), _IMAGE_SCALE, axis=1)
            self.clock.value = f"{step * trace.policy_period:.2f} s of {trace.duration:.2f} s"
            self._show_figures(step)
            if self.slider.value != step:
                self.slider.value = step

    def _show_figures(self, step: int) -> None:
        trace = self.flight.trace
        for shown, value in zip(self.commands, _commands(self.flight, step), strict=True):
            shown.value = value
        self.motion.value = f"{trace.position[step][2]:.2f} m, {trace.speed[step]:.2f} m/s"
        if not trace.probability:
            self.gate.value = "no gate head"
            return
        probability = trace.probability[step]
        at = "" if self._threshold is None else f" of {self._threshold:.3f}"
        passed = ", passed" if trace.passed[step] else ""
        self.gate.value = f"{probability:.4f}{at}{passed}"
        self.gate_bar.value = float(100 * np.sqrt(np.nan_to_num(probability)))

    def _play(self) -> None:
        while not self._closed.is_set():
            period = self.flight.trace.policy_period / float(self.speed.value)
            began = time.monotonic()
            if self.playing.value:
                if self.step < len(self.flight.trace.action) - 1:
                    self.show(self.step + 1)
                else:
                    self.playing.value = False
            self._closed.wait(max(0.005, period - (time.monotonic() - began)))

    def wait(self, ready: Callable[[str], None]) -> None:
        """Tell the address, then serve until Ctrl-C."""
        ready(self.url)
        try:
            while True:
                time.sleep(0.5)
        except KeyboardInterrupt:
            return

    def close(self) -> None:
        """Stop serving."""
        self._closed.set()
        self._player.join()
        self.server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _commands(flight: ShownFlight, step: int) -> list[str]:
    values = np.asarray(flight.transform.apply(flight.trace.action[step]), np.float64)
    return [f"{value:.2f} {unit}" for value, unit in zip(values, ACTION_UNITS, strict=True)]


def _short(name: str) -> str:
    return name.replace("body_rate_", "rate ")


def _markdown(text: str) -> str:
    """Return text so that viser's Markdown shows it as it is."""
    return "".join(f"&#{ord(c)};" if not (c.isalnum() or c in " .,:") else c for c in printable(text))

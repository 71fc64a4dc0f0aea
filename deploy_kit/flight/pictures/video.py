"""Depth videos: what the drone's camera sees, with the gate probability drawn in."""

from collections import deque
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from deploy_kit.errors import MissingDependencyError, OptionError

SCALE = 6
PANEL_HEIGHT = 108
HISTORY_STEPS = 160
TEXT, MUTED, LINE, PASSED = (235, 235, 235), (130, 130, 130), (255, 179, 71), (94, 214, 130)
DARK = (60, 60, 60)


def require_video() -> None:
    """Raise MissingDependencyError if PyAV is not installed; asked for before long work whose end is a video."""
    try:
        import av  # noqa: F401  # whether it is there is all that is asked
    except ImportError as error:
        raise MissingDependencyError("videos need PyAV; install it with: pip install 'deploy-kit[sim]'") from error


class DepthVideo:
    """Writes an mp4 of depth images, one frame a policy step, with the gate probability beneath.

    Frames are written as they come; closing the file makes it valid, also after an interruption.

    Args:
        path: the ``.mp4`` to write.
        image_shape: (rows, columns) of the depth image.
        fps: frames a second, real time if it is one over the policy's period.
        threshold: probability from which a step counts as a passage, marked on the bar; None for no mark.

    Raises:
        OptionError: the name does not end in ``.mp4``.
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(
        self, path: Path, image_shape: tuple[int, int], fps: float = 1 / 0.03, threshold: float | None = None
    ) -> None:
        if path.suffix != ".mp4":
            raise OptionError(f"{path}: a video's name must end in .mp4")
        require_video()
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._rows, self._columns = image_shape
        self._fps = fps
        self._threshold = threshold
        self._history: deque[tuple[float, bool]] = deque(maxlen=HISTORY_STEPS)
        self._colours = (colormaps["turbo_r"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
        self._av = av
        self._partial = path.with_name(path.name + ".partial")
        self._container = av.open(str(self._partial), mode="w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.width = self._columns * SCALE
        self._stream.height = self._rows * SCALE + PANEL_HEIGHT
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20", "preset": "veryfast"}
        self.frames = 0

    def add(self, depth: npt.NDArray[np.floating], probability: float | None, passed: bool) -> npt.NDArray[np.uint8]:
        """Append one frame and return it as `draw` does.

        Args:
            depth: (rows, columns) or flat, scaled to [0, 1].
            probability: gate probability of this step, None without a gate head.
            passed: whether this step passed a gate.
        """
        picture = self.draw(depth, probability, passed)
        self._container.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(picture, format="rgb24")))
        self.frames += 1
        return picture

    def draw(self, depth: npt.NDArray[np.floating], probability: float | None, passed: bool) -> npt.NDArray[np.uint8]:
        """Return the picture of one step, (height, width, 3) RGB."""
        self._history.append((float("nan") if probability is None else probability, passed))
        level = np.clip(np.asarray(depth).reshape(self._rows, self._columns), 0, 1)
        rgb = self._colours[(level * 255).astype(np.uint8)]
        view = np.repeat(np.repeat(rgb, SCALE, axis=0), SCALE, axis=1)
        picture = Image.fromarray(np.vstack([view, np.full((PANEL_HEIGHT, view.shape[1], 3), 24, np.uint8)]))
        self._draw_panel(ImageDraw.Draw(picture), view.shape[0], view.shape[1])
        if passed:
            ImageDraw.Draw(picture).rectangle((0, 0, view.shape[1] - 1, view.shape[0] - 1), outline=PASSED, width=6)
        return np.asarray(picture)

    def _draw_panel(self, draw: ImageDraw.ImageDraw, top: int, width: int) -> None:
        font = ImageFont.load_default(size=16)
        probability, passed = self._history[-1]
        left, right, low, high = 12, width - 12, top + PANEL_HEIGHT - 12, top + 52
        shown = "no gate head" if np.isnan(probability) else f"gate probability {probability:.2f}"
        draw.text((left, top + 7), shown, fill=TEXT, font=font)
        draw.text((right, top + 7), f"{self.frames / self._fps:5.2f} s", fill=MUTED, font=font, anchor="ra")
        if not np.isnan(probability):
            self._draw_bar(draw, (left, top + 32, right, top + 42), PASSED if passed else LINE, probability)
        draw.line((left, low, right, low), fill=MUTED)
        draw.line((left, high, right, high), fill=DARK)
        step = (right - left) / (HISTORY_STEPS - 1)
        start = HISTORY_STEPS - len(self._history)
        points = []
        for index, (value, hit) in enumerate(self._history):
            x = left + (start + index) * step
            if hit:
                draw.line((x, high, x, low), fill=PASSED, width=2)
            if not np.isnan(value):
                points.append((x, low - value * (low - high)))
        if len(points) > 1:
            draw.line(points, fill=LINE, width=2)

    def _draw_bar(
        self, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, int, int], share: float
    ) -> None:
        left, top, right, bottom = box
        draw.rectangle(box, fill=DARK)
        draw.rectangle((left, top, left + round(share * (right - left)), bottom), fill=colour)
        if self._threshold is not None:
            tick = left + round(self._threshold * (right - left))
            draw.line((tick, top - 3, tick, bottom + 3), fill=TEXT, width=2)

    def close(self) -> None:
        """Finish the file and move it into place; without a frame there is none."""
        if self.frames == 0:
            self._container.close()
            self._partial.unlink(missing_ok=True)
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._partial.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_still(frames: list[npt.NDArray[np.uint8]], path: Path) -> None:
    """Write frames of equal size, (height, width, 3) RGB, side by side as a PNG."""
    gap = np.full((frames[0].shape[0], 12, 3), 255, np.uint8)
    spaced = [piece for frame in frames for piece in (gap, frame)][1:]
    Image.fromarray(np.hstack(spaced)).save(path)

"""Types of options: image shapes, shapes of observation groups, kinds of track."""

import os
from pathlib import Path
from typing import Any

import click

from deploy_kit.sim.options import EnvOptions


class FeatureFile(click.ParamType[Path]):
    """Feature file to write; ``./x.h5`` is a path, which the folder for bare names does not take."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return a path that still tells a bare name from a file in the working folder."""
        path = Path(value)
        return Path.cwd() / path if os.sep in str(value) and len(path.parts) == 1 else path


class ImageShape(click.ParamType[tuple[int, int]]):
    """Rows by columns, as in ``72x96``."""

    name = "ROWSxCOLUMNS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse ``72x96`` into (72, 96)."""
        if isinstance(value, tuple):
            return value
        rows, cross, columns = str(value).partition("x")
        if not (cross and rows.isdigit() and columns.isdigit()):
            self.fail(f"{value!r} is not ROWSxCOLUMNS, for example 72x96", param, ctx)
        return int(rows), int(columns)


class ObservationShapes(click.ParamType[tuple[tuple[str, tuple[int, ...]], ...]]):
    """Shapes of observation groups, as in ``policy=48,camera=1x36x48``."""

    name = "GROUP=SHAPE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Parse into (name, shape) of each group."""
        if isinstance(value, tuple):
            return value
        shapes: dict[str, tuple[int, ...]] = {}
        for part in filter(None, str(value).split(",")):
            name, _, sizes = part.partition("=")
            numbers = sizes.split("x")
            if not name or name in shapes or not all(size.isdecimal() and int(size) > 0 for size in numbers):
                self.fail(f"{part!r} is not GROUP=N or GROUP=CHANNELSxROWSxCOLUMNS, each group once", param, ctx)
            if len(numbers) not in (1, 3):
                self.fail(
                    f"{part!r} has {len(numbers)} sizes; a group is N numbers or an image CxROWSxCOLUMNS", param, ctx
                )
            shapes[name] = tuple(map(int, numbers))
        return tuple(shapes.items())


class Tracks(click.ParamType[tuple[str, ...]]):
    """Track kinds, separated by commas, or ``all``."""

    name = "KIND[,KIND]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse ``circular,ellipse`` into a tuple of known kinds."""
        if isinstance(value, tuple):
            return value
        known = EnvOptions.tracks
        kinds = known if value == "all" else tuple(str(value).split(","))
        unknown = [kind for kind in kinds if kind not in known]
        if unknown:
            self.fail(f"unknown track kind {unknown[0]!r}; known: {', '.join(known)}, all", param, ctx)
        return kinds

"""What the processes of one verification tell each other: JSON and plain arrays, nothing that could run.

A message is a numpy archive (read without pickle) with one entry ``header``, JSON, beside its arrays.
"""

import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.codec import decode, encode
from deploy_kit.errors import InputError
from deploy_kit.flight.episodes import FirstEpisodes
from deploy_kit.verify.share import FlownPart, ModeFlight, ShareFigures

Arrays = dict[str, npt.NDArray[Any]]

_REFERENCE = "reference"


def pack(header: dict[str, Any], arrays: Arrays | None = None) -> bytes:
    """Return a message as bytes."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, header=text, **(arrays or {}))
    return buffer.getvalue()


def unpack(message: bytes) -> tuple[dict[str, Any], Arrays]:
    """Return a message's header and arrays.

    Raises:
        InputError: it is no message.
    """
    try:
        with np.load(io.BytesIO(message), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes())
    except Exception as error:  # what another process sends may be anything
        raise InputError(f"another process sent what is no message ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise InputError("another process sent a message without a header")
    return header, arrays


def pack_part(part: FlownPart) -> tuple[dict[str, Any], Arrays]:
    """Return header and arrays of what a share flew."""
    flown = {_REFERENCE: part.reference, **{mode: flight.episodes for mode, flight in part.modes.items()}}
    arrays = {f"{who}/{name}": array for who, episodes in flown.items() for name, array in episodes.to_arrays().items()}
    paired = {mode: flight.paired for mode, flight in part.modes.items()}
    return {"paired": paired, "broken": part.broken}, arrays


def unpack_part(header: dict[str, Any], arrays: Arrays) -> FlownPart:
    """Return what `pack_part` was given."""

    def episodes(who: str) -> FirstEpisodes:
        own = {name.removeprefix(f"{who}/"): array for name, array in arrays.items() if name.startswith(f"{who}/")}
        return FirstEpisodes.from_arrays(own)

    modes = {mode: ModeFlight(episodes(mode), bool(paired)) for mode, paired in header["paired"].items()}
    return FlownPart(episodes(_REFERENCE), modes, dict(header["broken"]))


def pack_figures(figures: ShareFigures) -> dict[str, Any]:
    """Return the header of what a share compared."""
    packed: dict[str, Any] = encode(figures)
    return packed


def unpack_figures(header: dict[str, Any]) -> ShareFigures:
    """Return what `pack_figures` was given."""
    return decode(ShareFigures, header, "figures")

"""Reads and writes safetensors files together with their metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from deploy_kit.errors import CheckpointError
from deploy_kit.strict_json import strict_json
from deploy_kit.text import printable

MAX_HEADER_BYTES = 16 * 2**20
"""Largest header that is read; the library allows 100 MB."""


def is_safetensors(data: bytes) -> bool:
    """Return whether bytes begin like a safetensors file: a header's length, then JSON."""
    return len(data) > 8 and data[8:9] == b"{" and not data.startswith(b"PK")


def read_safetensors(data: bytes, path: Path) -> dict[str, Any]:
    """Read tensors and metadata.

    Args:
        data: the file's bytes.
        path: where they come from, for messages.

    Returns:
        ``{"tensors": name -> Tensor, "metadata": name -> text}``.

    Raises:
        CheckpointError: if the header is too long, or does not describe exactly the bytes that follow.
    """
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise CheckpointError(
            f"{path} claims a safetensors header of {length} bytes in a file of {len(data)} "
            f"(at most {MAX_HEADER_BYTES} are read): it is damaged or was cut off"
        )
    try:
        tensors = safetensors.torch.load(data)
        header = strict_json(data[8 : 8 + length])
    except (SafetensorError, ValueError, RecursionError, KeyError) as error:
        raise CheckpointError(
            f"{path} is a damaged safetensors file ({printable(error)}): fetch or save it again"
        ) from error
    return {"tensors": tensors, "metadata": header.get("__metadata__", {})}


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a file with these tensors and metadata."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata))

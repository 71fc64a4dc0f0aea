"""Read the arrays of a `golden.npz`, which may be anybody's file."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.errors import BundleError
from deploy_kit.files import UNREADABLE_NPZ
from deploy_kit.text import one_line

MAX_GOLDEN_BYTES = 1 << 30


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return all arrays of an npz file by name.

    Raises:
        BundleError: it is no npz file of plain arrays, is too large, or holds an array twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
        if total > MAX_GOLDEN_BYTES:
            raise BundleError(f"{path}: {total} bytes unpacked, at most {MAX_GOLDEN_BYTES} are read")
        with np.load(path, allow_pickle=False) as opened:
            if len(set(opened.files)) != len(opened.files):
                raise BundleError(f"{path}: an array is there twice, of which readers may take either; export it again")
            return {name: opened[name] for name in opened.files}
    except UNREADABLE_NPZ as error:
        raise BundleError(f"{path}: not a readable npz file ({one_line(error)}); export the bundle again") from error

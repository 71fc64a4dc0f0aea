"""Where a bundle is written before it is published, and how it is moved into place."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy_kit.bundle.reader import BUNDLE_FILES, MANIFEST_NAME, OPTIONAL_FILES, is_report
from deploy_kit.bundle.signature import SIGNATURE_NAMES, SigningKey, sign_bundle
from deploy_kit.errors import OptionError

NEW, OLD = "new", "old"
"""Names of the new and, while they are swapped, of the old bundle inside the staging folder."""


def require_free(target: Path, overwrite: bool) -> None:
    """Check that a bundle may be written.

    Args:
        target: the bundle's folder.
        overwrite: whether a bundle that lies there may be replaced.

    Raises:
        OptionError: something lies there that is not replaced.
    """
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise OptionError(f"{target} is not a folder; choose another --output")
    present = {entry.name for entry in target.iterdir()}
    if not present:
        return
    if not overwrite:
        raise OptionError(f"{target} exists; give --overwrite to replace it, or choose another --output")
    if MANIFEST_NAME not in present:
        raise OptionError(f"{target} is no bundle (no {MANIFEST_NAME}) and is not overwritten; choose another --output")
    # Reports of the old bundle say nothing about the new one and go with it; anything else is the user's.
    own = {*BUNDLE_FILES, *OPTIONAL_FILES, MANIFEST_NAME, *SIGNATURE_NAMES}
    foreign = sorted(name for name in present - own if not (is_report(name) and (target / name).is_file()))
    if foreign:
        raise OptionError(
            f"{target} also holds {foreign[0]}, which is no part of a bundle; move it away, or choose another --output"
        )


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside the target, and remove it with all that is left in it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise OptionError(
            f"{target.parent} cannot be written: {error.strerror or error}; choose another --output"
        ) from error
    with folder as name:
        yield Path(name)


def publish(folder: Path, target: Path, staging: Path, keys: Iterable[SigningKey] = ()) -> None:
    """Sign a finished bundle and move it into place; an old one is moved aside first, and back if that fails."""
    for key in keys:
        sign_bundle(folder, key)
    old = staging / OLD
    replaced = target.exists()
    if replaced:
        target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        if replaced:
            old.rename(target)
        raise

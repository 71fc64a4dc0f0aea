"""Opens a bundle whatever it holds: what is wrong with it is a failed check with a name, not an error."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from deploy_kit.bundle.reader import BUNDLE_FILES, MANIFEST_NAME, SAFETENSORS_NAME, Bundle, check_files, open_bundle
from deploy_kit.bundle.signature import TrustedKey, require_signed
from deploy_kit.errors import BundleError, CheckFailedError, InputError, OptionError
from deploy_kit.text import one_line
from deploy_kit.verify.options import LIVE_MODES, VerifyOptions
from deploy_kit.verify.report import Check, FactCheck, NotRun

T = TypeVar("T")

FILES_COMPARED = "exactly the bundle's files, size and sha256 of each"

CHANGED = FactCheck(
    "bundle/unchanged", "the files at the end of the run", 1, ("the manifest changed during the run: verify again",)
)


def require_something(folder: Path) -> None:
    """Check that a folder holds at least something of a bundle: anything else is a mistyped path.

    Raises:
        BundleError: no such folder, or nothing of a bundle in it.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such bundle folder; give the folder that `deploy-kit export` wrote")
    try:
        if any((folder / name).exists() for name in (MANIFEST_NAME, *BUNDLE_FILES)):
            return
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror or error}") from error
    raise BundleError(f"{folder}: holds no {MANIFEST_NAME}; give the folder that `deploy-kit export` wrote")


def require_truth_outside(folder: Path, checkpoint: Path) -> None:
    """Check that a checkpoint is not the bundle's own: nothing that a bundle holds can be the truth about it.

    Raises:
        OptionError: the checkpoint lies in the bundle's folder, or is a link to a file there.
    """
    try:
        inside = checkpoint.resolve().is_relative_to(folder.resolve())
        stored = folder / SAFETENSORS_NAME
        inside = inside or (stored.is_file() and checkpoint.exists() and stored.samefile(checkpoint))
    except (OSError, RuntimeError) as error:
        raise OptionError(f"--checkpoint {checkpoint} cannot be resolved: {error}") from error
    if inside:
        raise OptionError(
            f"--checkpoint {checkpoint} lies in the bundle, which would be held against itself; give the checkpoint "
            "that was exported"
        )


def manifest_sha256(folder: Path) -> str | None:
    """Return the sha256 of a bundle's manifest, and so of all that it lists; None if it cannot be read."""
    manifest = folder / MANIFEST_NAME
    try:
        # Reading a pipe would wait for ever.
        return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None
    except OSError:
        return None


def signature_check(folder: Path, key: TrustedKey) -> FactCheck:
    """Return whether a bundle bears the signature of a trusted key."""
    compared = f"signature of {key.path} (key {key.fingerprint}) over the manifest, and no unsigned file"
    _, problem = attempt(lambda: require_signed(folder, key))
    return FactCheck("bundle/signature", compared, 1, () if problem is None else (problem,))


def open_for_verification(folder: Path, signature: FactCheck | None = None) -> Bundle | FactCheck:
    """Return a bundle, or the failed check that says why it cannot be opened.

    Args:
        folder: the bundle's.
        signature: check of its signature, None where no key is trusted; what is not signed is not opened.
    """
    if signature is not None and signature.problems:
        return signature
    _, problem = attempt(lambda: check_files(folder))
    if problem is not None:
        return FactCheck("bundle/manifest", FILES_COMPARED, 1, (problem,))
    bundle, problem = attempt(lambda: open_bundle(folder))
    if bundle is None:
        return FactCheck("contract/schema", "contract.json, read by its schema", 1, (problem or "",))
    return bundle


def nothing_opened(options: VerifyOptions) -> Iterator[NotRun]:
    """Yield what was not run, since the bundle cannot be opened."""
    for name in ("contract", "onnx", "torchscript", "safetensors", "golden", "replay"):
        yield NotRun(name, "the bundle cannot be opened")
    for mode in LIVE_MODES:
        if not options.live:
            yield NotRun(f"live/{mode}", "--no-live", "--no-live")
        elif mode not in options.live_modes:
            yield NotRun(f"live/{mode}", "not among the live modes asked for", "--live-mode")
        else:
            yield NotRun(f"live/{mode}", "the bundle cannot be opened")
    if options.flight is not None:
        yield NotRun("flight-log", "the bundle cannot be opened")


def attempt(work: Callable[[], T]) -> tuple[T, None] | tuple[None, str]:
    """Do work on a bundle's content; return its result, or what went wrong in one line."""
    try:
        return work(), None
    except (BundleError, CheckFailedError) as error:
        return None, one_line(error)
    except Exception as error:  # noqa: BLE001 # a bundle may hold anything, and no content of it may end the judge
        return None, f"{type(error).__name__}: {one_line(error)}"


def guarded(name: str, compared: str, stage: Iterable[Check]) -> Iterator[Check]:
    """Yield a stage's checks; what a bundle's content breaks in it is one more check, failed and named.

    Args:
        name: name of that check.
        compared: what with what.
        stage: yields checks.

    Raises:
        InputError: what the user gave besides the bundle cannot be used.
    """
    try:
        yield from stage
    except BundleError as error:
        yield FactCheck(name, compared, 1, (one_line(error),))
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 # as above
        yield FactCheck(name, compared, 1, (f"{type(error).__name__}: {one_line(error)}",))

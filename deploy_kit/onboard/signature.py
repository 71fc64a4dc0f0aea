"""Check a bundle's signature: Ed25519 over the manifest, which holds the hash of each file.

`cryptography` is needed where a key is trusted, and nowhere else.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from .faults import Fault, OnboardFault

SIGNATURE_NAME = "manifest.json.sig"

_BESIDE = (SIGNATURE_NAME, "model.sig")
"""Signatures; a bundle's reports lie beside it too."""

_REPORT = re.compile(r"report(-[A-Za-z0-9_-]+)?\.(json|html|xml|md)", re.ASCII)
"""Names that verify gives a report."""

_SIGNATURE_BYTES = 64
_MAX_KEY_BYTES = 1 << 16


def require_signed(folder: Path, manifest: bytes, listed: Iterable[str], trust: Path) -> None:
    """Check that a manifest is signed by a trusted key, and that the folder holds nothing that it does not list.

    Args:
        folder: the bundle's.
        manifest: the manifest's bytes, as they were read.
        listed: names of the files that it lists.
        trust: public key, PEM, Ed25519.

    Raises:
        OnboardFault: no signature, another key's, an unsigned file, or it cannot be checked.
    """
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise OnboardFault(
            Fault.SIGNATURE_UNCHECKED,
            "a key is trusted, and the package cryptography, which checks signatures, is not installed: install it, or "
            "fly without trust on your own responsibility",
        ) from error
    try:
        if not trust.is_file() or trust.stat().st_size > _MAX_KEY_BYTES:
            raise ValueError("no file, or too long for a key")
        key = load_pem_public_key(trust.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise OnboardFault(Fault.SIGNATURE_UNCHECKED, f"{trust} is no public key in PEM that can be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise OnboardFault(
            Fault.SIGNATURE_UNCHECKED, f"{trust} is no Ed25519 key: on board, the manifest's Ed25519 signature counts"
        )
    known = {*listed, "manifest.json", *_BESIDE}
    for entry in sorted(folder.iterdir()):
        beside = _REPORT.fullmatch(entry.name) and entry.is_file() and not entry.is_symlink()
        if entry.name not in known and not beside:
            raise OnboardFault(Fault.UNSIGNED_FILE, f"{entry} is not signed: the manifest does not list it")
    path = folder / SIGNATURE_NAME
    if not path.is_file():
        raise OnboardFault(Fault.NOT_SIGNED, f"{path} is missing: copy the bundle again, or ask who made it")
    if path.stat().st_size != _SIGNATURE_BYTES:
        raise OnboardFault(Fault.SIGNATURE_WRONG, f"{path} is no Ed25519 signature")
    try:
        key.verify(path.read_bytes(), manifest)
    except InvalidSignature as error:
        raise OnboardFault(
            Fault.SIGNATURE_WRONG,
            f"{path} is not the signature of {trust} over this manifest: another key signed it, or it was changed",
        ) from error

"""Signatures of bundles: an Ed25519 signature over the manifest, and OpenSSF model signing over all files.

Which one is made follows from the key. Both are made and checked offline. A manifest holds the hash of each file, so
whoever signs it signs them all; the drone checks this one with `cryptography` alone (`deploy_kit.onboard.signature`).
OpenSSF's signature (`model.sig`) is for whoever collects models of many projects; other tools check it too.

Reports beside a bundle are not signed: they are made later, and by others.
"""

import hashlib
import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_kit.bundle.reader import MANIFEST_NAME, OPENSSF_NAME, SIGNATURE_NAME, check_files, is_report
from deploy_kit.errors import BundleError, MissingDependencyError, OptionError
from deploy_kit.text import one_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_NAMES = (SIGNATURE_NAME, OPENSSF_NAME)
PASSWORD_VARIABLE = "DEPLOY_KIT_KEY_PASSWORD"  # the variable's name

MAX_KEY_BYTES = 1 << 16
MAX_SIGNATURE_BYTES = 1 << 20

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_INSTALL = 'install it with: pip install "deploy-kit[signing]"'


@dataclass(frozen=True)
class SigningKey:
    """A private key that was read.

    Attributes:
        path: its file.
        key: Ed25519 or elliptic curve.
    """

    path: Path
    key: Any

    @property
    def signature_name(self) -> str:
        """Name of the file that its signature goes to."""
        return _signature_name(self.key.public_key())


@dataclass(frozen=True)
class TrustedKey:
    """A public key whose owner is trusted.

    Attributes:
        path: its file.
        key: Ed25519 or elliptic curve.
    """

    path: Path
    key: "Ed25519PublicKey | EllipticCurvePublicKey"

    @property
    def signature_name(self) -> str:
        """Name of the file in which its signature is looked for."""
        return _signature_name(self.key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key (SubjectPublicKeyInfo, DER), first 16 digits."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        data = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(data).hexdigest()[:16]


def read_signing_key(path: Path) -> SigningKey:
    """Read a private key, PEM; the password of an encrypted one is taken from `PASSWORD_VARIABLE`.

    Raises:
        OptionError: it cannot be read, or is of a kind that nothing is signed with.
        MissingDependencyError: the packages that sign with it are not installed.
    """
    _require("cryptography")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    password = os.environ.get(PASSWORD_VARIABLE)
    data = _read(path, MAX_KEY_BYTES)
    try:
        key = load_pem_private_key(data, None if password is None else password.encode())
    except TypeError as error:
        wanted = f"set {PASSWORD_VARIABLE}" if password is None else f"unset {PASSWORD_VARIABLE}"
        raise OptionError(f"--sign {path}: {one_line(error)}; {wanted}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise OptionError(f"--sign {path} is no private key in PEM, or its password is another one") from error
    _require_kind("--sign", path, key.public_key())
    return SigningKey(path, key)


def read_signing_keys(paths: Iterable[Path]) -> list[SigningKey]:
    """Read private keys, of each kind one at most; see `read_signing_key` for errors."""
    keys = [read_signing_key(path) for path in paths]
    if len({key.signature_name for key in keys}) != len(keys):
        raise OptionError("--sign: two keys of one kind; a bundle bears one signature of each kind")
    return keys


def read_trusted_key(path: Path) -> TrustedKey:
    """Read a public key, PEM.

    Raises:
        OptionError: it cannot be read, or is of a kind that no bundle is signed with.
        MissingDependencyError: the packages that check its signatures are not installed.
    """
    _require("cryptography")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path, MAX_KEY_BYTES))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise OptionError(f"--trust {path} is no public key in PEM (openssl pkey -pubout makes one)") from error
    _require_kind("--trust", path, key)
    return TrustedKey(path, key)  # type: ignore[arg-type] # of the kinds that were let through


def sign_bundle(folder: Path, key: SigningKey) -> Path:
    """Sign a finished bundle; return the file with the signature.

    Args:
        folder: the bundle's; its manifest lists all its files.
        key: whose signature.

    Raises:
        BundleError: the files are not those that the manifest lists, or there are others.
    """
    listed = check_files(folder)
    _require_only_signed(folder, set(listed))
    target = folder / key.signature_name
    if key.signature_name == SIGNATURE_NAME:
        target.write_bytes(key.key.sign((folder / MANIFEST_NAME).read_bytes()))
        return target
    password = os.environ.get(PASSWORD_VARIABLE)
    # Its annotation says text, and it hands the password on to where bytes are wanted.
    config = (
        _model_signing()
        .signing.Config()
        .use_elliptic_key_signer(private_key=key.path, password=None if password is None else password.encode())
    )
    config.set_hashing_config(_openssf_hashing(folder)).sign(folder, target)
    return target


def require_signed(folder: Path, key: TrustedKey) -> None:
    """Check that a bundle is signed by a trusted key, and that it holds nothing beside what is signed and reports.

    Args:
        folder: the bundle's.
        key: whose signature it must bear.

    Raises:
        BundleError: a file is not signed or was altered, there is no signature, or it is another key's.
    """
    listed = check_files(folder)
    _require_only_signed(folder, set(listed))
    path = folder / key.signature_name
    if path.is_symlink():
        raise BundleError(f"{path} is a link; copy the whole bundle again")
    if not path.is_file():
        others = [name for name in SIGNATURE_NAMES if (folder / name).is_file()]
        other = f"; it has {others[0]}, which a key of the other kind signs" if others else ""
        raise BundleError(f"{folder} is not signed for {key.path}: {path.name} is missing{other}; ask who made it")
    try:
        signature = _read(path, MAX_SIGNATURE_BYTES)
    except OptionError as error:
        raise BundleError(str(error)) from error
    wrong = (
        f"{path} is not the signature of {key.path} (key {key.fingerprint}) over this bundle: another key signed it, "
        "or the bundle was changed afterwards; do not fly it"
    )
    if key.signature_name == SIGNATURE_NAME:
        from cryptography.exceptions import InvalidSignature

        try:
            key.key.verify(signature, (folder / MANIFEST_NAME).read_bytes())  # type: ignore[call-arg] # Ed25519
        except InvalidSignature as error:
            raise BundleError(wrong) from error
        return
    config = _model_signing().verifying.Config().use_elliptic_key_verifier(public_key=key.path)
    try:
        config.set_hashing_config(_openssf_hashing(folder)).verify(folder, path)
    except Exception as error:  # it parses what anybody may have written, and says no in many ways
        raise BundleError(f"{wrong} ({type(error).__name__}: {one_line(error)[:200]})") from error


def _model_signing() -> Any:
    return importlib.import_module("model_signing")


def _openssf_hashing(folder: Path) -> Any:
    """Return which files OpenSSF's signature covers: the manifest and those that it lists."""
    # Names alone: it takes relative paths for those within the model, and writes what it left out into the signature.
    unsigned = [entry.name for entry in folder.iterdir() if _is_beside(entry.name)]
    config = _model_signing().hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    return config.set_ignored_paths(paths=[*unsigned, OPENSSF_NAME], ignore_git_paths=False)


def _is_beside(name: str) -> bool:
    """Return whether a file is beside a bundle rather than of it: a signature, or a report."""
    return name in SIGNATURE_NAMES or is_report(name)


def _require_only_signed(folder: Path, listed: set[str]) -> None:
    for entry in sorted(folder.iterdir()):
        if entry.name not in {*listed, MANIFEST_NAME} and not (_is_beside(entry.name) and entry.is_file()):
            raise BundleError(f"{entry} is not signed: {MANIFEST_NAME} does not list it; move it out of the bundle")
        if is_report(entry.name) and entry.is_symlink():
            raise BundleError(f"{entry} is a link; copy the report itself, or move it out of the bundle")


def _signature_name(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return SIGNATURE_NAME if isinstance(key, Ed25519PublicKey) else OPENSSF_NAME


def _require_kind(option: str, path: Path, key: object) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if isinstance(key, Ed25519PublicKey):
        return
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise OptionError(
            f"{option} {path} is neither an Ed25519 key, which signs the manifest, nor one on the curves P-256, P-384 "
            "and P-521, which OpenSSF model signing takes"
        )
    _require("model_signing")


def _require(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError(f"signatures of this key need {package}; {_INSTALL}") from error


def _read(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():
            raise OptionError(f"{path} is no file; give a key in PEM")
        if (size := path.stat().st_size) > limit:
            raise OptionError(f"{path} has {size} bytes, up to {limit} are read")
        return path.read_bytes()
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror or error})") from error

"""Keys to sign bundles with, made anew each time."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def write_keys(folder: Path, name: str, key: Any, password: bytes | None = None) -> tuple[Path, Path]:
    """Write a key pair; return private and public file."""
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def ed25519(folder: Path, name: str = "ed25519", password: bytes | None = None) -> tuple[Path, Path]:
    """Make an Ed25519 key pair."""
    return write_keys(folder, name, Ed25519PrivateKey.generate(), password)


def p256(folder: Path, name: str = "p256", password: bytes | None = None) -> tuple[Path, Path]:
    """Make a P-256 key pair."""
    return write_keys(folder, name, generate_private_key(SECP256R1()), password)

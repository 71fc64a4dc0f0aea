"""A bundle counts as signed if a trusted key signed all that is in it, and only then."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from deploy_kit.bundle import signature
from deploy_kit.bundle.reader import manifest_text
from deploy_kit.bundle.signature import (
    OPENSSF_NAME,
    PASSWORD_VARIABLE,
    SIGNATURE_NAME,
    read_signing_key,
    read_signing_keys,
    read_trusted_key,
    require_signed,
    sign_bundle,
)
from deploy_kit.errors import BundleError, MissingDependencyError, OptionError
from helpers import keys

KINDS = {SIGNATURE_NAME: keys.ed25519, OPENSSF_NAME: keys.p256}


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def pair(kind, tmp_path):
    return KINDS[kind](tmp_path, "mine")


@pytest.fixture
def signed(bundle_copy, pair, kind):
    assert sign_bundle(bundle_copy, read_signing_key(pair[0])) == bundle_copy / kind
    return bundle_copy


def refuse(folder, public, words):
    with pytest.raises(BundleError, match=words):
        require_signed(folder, read_trusted_key(public))


def test_the_right_key_is_enough(signed, pair):
    require_signed(signed, read_trusted_key(pair[1]))
    for name in ("report.json", "report.html", "report-cuda.json"):
        (signed / name).write_text("{}")
    require_signed(signed, read_trusted_key(pair[1]))


def test_both_signatures_lie_beside_each_other(bundle_copy, tmp_path):
    first, second = keys.ed25519(tmp_path), keys.p256(tmp_path)
    for key in read_signing_keys([first[0], second[0]]):
        sign_bundle(bundle_copy, key)
    for _, public in (first, second):
        require_signed(bundle_copy, read_trusted_key(public))
    with pytest.raises(OptionError, match="two keys of one kind"):
        read_signing_keys([first[0], keys.ed25519(tmp_path, "another")[0]])


def test_a_relative_path_means_the_same_files(bundle_copy, tmp_path, monkeypatch):
    """OpenSSF's library takes paths that are to be left out for paths within the model."""
    monkeypatch.chdir(bundle_copy.parent)
    pairs = [make(tmp_path) for make in (keys.ed25519, keys.p256)]
    for key in read_signing_keys([private for private, _ in pairs]):
        sign_bundle(Path(bundle_copy.name), key)
    (bundle_copy / "report.json").write_text("{}")
    for folder in (Path(bundle_copy.name), bundle_copy):
        for _, public in pairs:
            require_signed(folder, read_trusted_key(public))
    payload = base64.b64decode(json.loads((bundle_copy / OPENSSF_NAME).read_text())["dsseEnvelope"]["payload"])
    assert str(bundle_copy.parent).encode() not in payload


def test_another_key_is_refused(signed, kind, tmp_path):
    refuse(signed, KINDS[kind](tmp_path, "other")[1], rf"{kind} is not the signature of .*other\.pub\.pem")


def test_a_missing_signature_is_refused(signed, pair, kind):
    (signed / kind).rename(signed.parent / "gone")
    refuse(signed, pair[1], f"is not signed for .*{kind} is missing; ask who made it")


def test_a_signature_of_the_other_kind_is_no_signature(signed, kind, tmp_path):
    (other,) = set(KINDS) - {kind}
    refuse(signed, KINDS[other](tmp_path, "other")[1], f"{other} is missing; it has {kind}")


def test_a_changed_manifest_is_refused(signed, pair):
    """The attacker changed a file and made the manifest anew, so that all hashes are right."""
    contract = signed / "contract.json"
    contract.write_text(contract.read_text().replace("racing", "racinG", 1) + " ")
    (signed / "manifest.json").write_text(manifest_text(signed))
    refuse(signed, pair[1], "is not the signature of")


def test_a_manifest_of_the_same_meaning_is_another_one(signed, pair):
    manifest = signed / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text())))
    refuse(signed, pair[1], "is not the signature of")


def test_a_changed_file_is_refused(signed, pair):
    weights = signed / "policy.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refuse(signed, pair[1], r"policy\.safetensors: sha256")


def test_an_unsigned_file_is_refused(signed, pair):
    (signed / "notes.txt").write_text("fly me")
    refuse(signed, pair[1], r"notes\.txt is not signed")
    (signed / "notes.txt").unlink()
    (signed / "report.json").mkdir()
    refuse(signed, pair[1], r"report\.json is not signed")
    (signed / "report.json").rmdir()
    (signed / "report.json").symlink_to("/etc/hostname")
    refuse(signed, pair[1], r"report\.json is a link")
    (signed / "report.json").unlink()
    (signed / "report.so").write_bytes(b"x")
    refuse(signed, pair[1], r"report\.so is not signed")


def test_a_signature_from_another_bundle_is_refused(signed, pair, kind, run, tmp_path):
    from helpers.bundles import copy_bundle

    other = copy_bundle(signed, tmp_path / "other")
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    require_signed(signed, read_trusted_key(pair[1]))
    refuse(other, pair[1], "is not the signature of")


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"{}", b"\xff" * 200, b'{"mediaType": 5}', b"[" * 5000])
def test_what_is_no_signature_is_refused(signed, pair, kind, content):
    (signed / kind).write_bytes(content)
    refuse(signed, pair[1], "is not the signature of")


def test_a_linked_signature_is_refused(signed, pair, kind):
    (signed / kind).rename(signed.parent / "signature")
    (signed / kind).symlink_to(signed.parent / "signature")
    refuse(signed, pair[1], "is a link")


def test_nothing_is_signed_that_the_manifest_does_not_list(bundle_copy, pair, kind):
    (bundle_copy / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra\.bin is not signed"):
        sign_bundle(bundle_copy, read_signing_key(pair[0]))
    assert not (bundle_copy / kind).exists()


def test_keys_with_a_password(bundle_copy, kind, tmp_path, monkeypatch):
    private, public = KINDS[kind](tmp_path, "locked", b"secret")
    with pytest.raises(OptionError, match=f"set {PASSWORD_VARIABLE}"):
        read_signing_key(private)
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(OptionError, match="its password is another one"):
        read_signing_key(private)
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    sign_bundle(bundle_copy, read_signing_key(private))
    require_signed(bundle_copy, read_trusted_key(public))


def test_what_is_no_key_is_refused(tmp_path):
    private, public = keys.ed25519(tmp_path)
    with pytest.raises(OptionError, match="is no public key"):
        read_trusted_key(private)
    with pytest.raises(OptionError, match="is no private key"):
        read_signing_key(public)
    with pytest.raises(OptionError, match="is no file"):
        read_trusted_key(tmp_path / "absent.pem")
    big = tmp_path / "big.pem"
    big.write_bytes(b"x" * 70_000)
    with pytest.raises(OptionError, match="70000 bytes"):
        read_signing_key(big)
    for name, key in (
        ("rsa", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        ("k256", ec.generate_private_key(ec.SECP256K1())),
    ):
        private, public = keys.write_keys(tmp_path, name, key)
        with pytest.raises(OptionError, match="neither an Ed25519 key"):
            read_signing_key(private)
        with pytest.raises(OptionError, match="neither an Ed25519 key"):
            read_trusted_key(public)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    private, public = keys.p256(tmp_path)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for read, path in ((read_signing_key, private), (read_trusted_key, public)):
        with pytest.raises(MissingDependencyError, match=r"need model_signing; .*deploy-kit\[signing\]"):
            read(path)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingDependencyError, match="need cryptography"):
        read_trusted_key(public)


def test_the_tool_of_model_signing_checks_the_same_signature(bundle_copy, tmp_path):
    private, public = keys.p256(tmp_path)
    sign_bundle(bundle_copy, read_signing_key(private))
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(bundle_copy)]
    words = ["--signature", str(bundle_copy / signature.OPENSSF_NAME), "--public_key", str(public)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle_copy / "golden.npz").write_bytes(b"x")
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode != 0

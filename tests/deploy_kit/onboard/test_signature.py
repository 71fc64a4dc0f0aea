"""On board, a trusted key's signature over the manifest decides whether a bundle is opened."""

import json
import os
import sys
from pathlib import Path

import pytest

from deploy_kit.bundle import reader
from deploy_kit.bundle.reader import manifest_text
from deploy_kit.bundle.signature import SIGNATURE_NAME, read_signing_key, sign_bundle
from deploy_kit.bundle.signature import SIGNATURE_NAMES as HOST_NAMES
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy, signature
from deploy_kit.onboard.__main__ import main
from helpers import keys
from helpers.bundles import copy_bundle


@pytest.fixture
def pair(tmp_path):
    return keys.ed25519(tmp_path)


@pytest.fixture
def folder(bundles, tmp_path, pair):
    folder = copy_bundle(bundles.plain, tmp_path / "bundle")
    sign_bundle(folder, read_signing_key(pair[0]))
    return folder


def refuse(folder, trust, fault, words):
    with pytest.raises(OnboardFault, match=words) as raised:
        OnboardPolicy(folder, OnboardOptions(trust=trust))
    assert raised.value.fault is fault


def test_both_copies_know_the_same_files():
    assert signature._BESIDE == HOST_NAMES
    assert signature._REPORT.pattern == reader._REPORT.pattern


def test_a_signed_bundle_flies(folder, pair):
    policy = OnboardPolicy(folder, OnboardOptions(trust=pair[1]))
    assert policy.self_check < 1
    assert policy.options.trust == str(pair[1])
    # The drone does without the files that it does not need.
    for name in ("policy.pt", "policy.safetensors"):
        (folder / name).unlink()
    (folder / "report.html").write_text("")
    assert OnboardPolicy(folder, OnboardOptions(trust=str(pair[1]))).self_check < 1


def test_another_key_is_refused(folder, tmp_path):
    refuse(folder, keys.ed25519(tmp_path, "other")[1], Fault.SIGNATURE_WRONG, r"is not the signature of .*other")


def test_a_missing_signature_is_refused(folder, pair):
    (folder / SIGNATURE_NAME).unlink()
    refuse(folder, pair[1], Fault.NOT_SIGNED, "is missing")
    assert OnboardPolicy(folder).self_check < 1


def test_a_changed_manifest_is_refused(folder, pair):
    contract = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps(contract))
    (folder / "manifest.json").write_text(manifest_text(folder))
    refuse(folder, pair[1], Fault.SIGNATURE_WRONG, "or it was changed")


def test_a_changed_file_is_refused(folder, pair):
    (folder / "golden.npz").write_bytes(b"x")
    refuse(folder, pair[1], Fault.BUNDLE_ALTERED, "golden")


def test_an_unsigned_file_is_refused(folder, pair):
    (folder / "policy.onnx.data").write_bytes(b"x")
    refuse(folder, pair[1], Fault.UNSIGNED_FILE, r"policy\.onnx\.data is not signed")
    (folder / "policy.onnx.data").unlink()
    (folder / "report.so").write_bytes(b"x")
    refuse(folder, pair[1], Fault.UNSIGNED_FILE, r"report\.so is not signed")
    (folder / "report.so").rename(folder.parent / "elsewhere")
    (folder / "report.json").symlink_to(folder.parent / "elsewhere")
    refuse(folder, pair[1], Fault.UNSIGNED_FILE, r"report\.json is not signed")


@pytest.mark.parametrize("content", [b"", b"x" * 63, b"x" * 64, b"x" * 10_000])
def test_what_is_no_signature_is_refused(folder, pair, content):
    (folder / SIGNATURE_NAME).write_bytes(content)
    refuse(folder, pair[1], Fault.SIGNATURE_WRONG, r"manifest\.json\.sig")


def test_a_manifest_that_readers_may_take_differently_is_refused(folder, pair):
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"files": {', '"files": {"policy.onnx": {"sha256": "", "size": 1},', 1))
    refuse(folder, None, Fault.BUNDLE_ALTERED, "is not JSON")
    os.truncate(manifest, 2 << 30)
    refuse(folder, pair[1], Fault.BUNDLE_ALTERED, "is no manifest")
    manifest.unlink()
    os.mkfifo(manifest)
    refuse(folder, pair[1], Fault.BUNDLE_ALTERED, "is no manifest")


def test_what_is_no_ed25519_key_is_refused(folder, pair, tmp_path):
    refuse(folder, Path("/dev/zero"), Fault.SIGNATURE_UNCHECKED, "is no public key")
    refuse(folder, pair[0], Fault.SIGNATURE_UNCHECKED, "is no public key")
    refuse(folder, tmp_path / "absent", Fault.SIGNATURE_UNCHECKED, "is no public key")
    refuse(folder, keys.p256(tmp_path)[1], Fault.SIGNATURE_UNCHECKED, "is no Ed25519 key")
    with pytest.raises(OnboardFault, match="wrong type"):
        OnboardOptions(trust=5)


def test_without_the_package_a_trusted_key_is_a_fault(folder, pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    refuse(folder, pair[1], Fault.SIGNATURE_UNCHECKED, "the package cryptography, which checks signatures")
    assert OnboardPolicy(folder).self_check < 1


def test_the_command_takes_the_key(folder, pair, tmp_path, capsys):
    assert main([str(folder), "--trust", str(pair[1]), "--steps", "100"], clock=iter(range(10**6)).__next__) == 0
    assert f"signature: of {pair[1]}" in capsys.readouterr().out
    other = keys.ed25519(tmp_path, "other")[1]
    assert main([str(folder), "--trust", str(other), "--steps", "100"]) == 1
    assert "refused, signature_wrong" in capsys.readouterr().err
    assert main([str(folder), "--steps", "100"], clock=iter(range(10**6)).__next__) == 0
    assert "signature: not checked (--trust)" in capsys.readouterr().out

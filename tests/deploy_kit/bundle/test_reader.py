import json
import zipfile

import numpy as np
import pytest

from deploy_kit.bundle import golden_arrays
from deploy_kit.bundle import reader as bundle_module
from deploy_kit.bundle.reader import BUNDLE_FILES, open_bundle
from deploy_kit.bundle.summary import describe_arrays
from deploy_kit.errors import BundleError
from deploy_kit.onboard import OnboardFault
from deploy_kit.onboard.bundle import load_bundle
from helpers.bundles import edit_golden, rewrite_manifest, write_torn_npz
from helpers.networks import SMALL_OBSERVATION


def test_opens_what_export_wrote(shared_bundle):
    assert sorted(shared_bundle.files) == sorted(BUNDLE_FILES)
    golden = shared_bundle.golden
    assert golden.source == "recorded"
    assert (golden.observation.shape, golden.action.shape, golden.gate_logit.shape) == (
        (16, SMALL_OBSERVATION),
        (16, 4),
        (16, 1),
    )
    assert len(golden) == 16


def test_reports_beside_the_manifest_do_not_matter(bundle_copy):
    (bundle_copy / "report.json").write_text("{}")
    assert len(open_bundle(bundle_copy).golden) == 16


def test_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no such bundle folder"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"manifest\.json: missing"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["policy.onnx", "policy.pt", "policy.safetensors", "contract.json", "golden.npz"])
def test_every_altered_file_is_found(bundle_copy, name):
    data = bytearray((bundle_copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle_copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}: sha256"):
        open_bundle(bundle_copy)
    (bundle_copy / name).write_bytes(data[:-1])
    with pytest.raises(BundleError, match=rf"{name}: \d+ bytes, the manifest says"):
        open_bundle(bundle_copy)
    (bundle_copy / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: the manifest lists it"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/b", "..", "", "a\\b"])
def test_names_outside_the_folder_are_refused(bundle_copy, name):
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 0}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not a plain file name"):
        open_bundle(bundle_copy)


def test_links_are_refused(bundle_copy, tmp_path):
    (bundle_copy / "golden.npz").rename(tmp_path / "elsewhere.npz")
    (bundle_copy / "golden.npz").symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(BundleError, match="no regular file"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "manifest version None"),
        ('{"manifest_version": 2}', "manifest version 2"),
        ('{"manifest_version": 1}', "no table of files"),
        ('{"manifest_version": 1, "files": {}}', r"policy\.onnx is not listed"),
    ],
)
def test_manifest_that_cannot_be_used(bundle_copy, text, message):
    (bundle_copy / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle_copy)


def test_manifest_entry_without_size(bundle_copy):
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["files"]["policy.onnx"]["size"] = "1"
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="lacks sha256 or size"):
        open_bundle(bundle_copy)


def test_huge_json_is_not_read(bundle_copy, monkeypatch):
    monkeypatch.setattr(bundle_module, "MAX_JSON_BYTES", 100)
    with pytest.raises(BundleError, match="at most 100 are read"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": None}, "array 'action' is missing"),
        ({"gate_logit": None}, "array 'gate_logit' is missing"),
        ({"action": np.zeros((16, 4))}, "action is float64"),
        ({"action": np.zeros((5, 4), np.float32)}, r"expected float32 \(16, 4\)"),
        ({"observation": np.zeros((0, SMALL_OBSERVATION), np.float32)}, "no samples"),
        ({"features": np.full((16, 24), np.nan, np.float32)}, "features holds a value that is not finite in sample 0"),
        ({"source": np.array(1)}, "must be strings"),
        ({"reason": np.array(["x"])}, "must be strings"),
        ({"reason": np.array([print] * 16, dtype=object)}, "not a readable npz"),
    ],
)
def test_golden_samples_that_cannot_be_used(bundle_copy, changes, message):
    edit_golden(bundle_copy, **changes)
    bundle = open_bundle(bundle_copy)
    with pytest.raises(BundleError, match=message):
        _ = bundle.golden


def test_golden_samples_that_unpack_to_too_much(bundle_copy, monkeypatch):
    monkeypatch.setattr(golden_arrays, "MAX_GOLDEN_BYTES", 1000)
    with pytest.raises(BundleError, match="at most 1000 are read"):
        _ = open_bundle(bundle_copy).golden


def test_golden_samples_with_a_torn_array(bundle_copy):
    write_torn_npz(bundle_copy / "golden.npz", "observation")
    rewrite_manifest(bundle_copy)
    with pytest.raises(BundleError, match="not a readable npz"):
        _ = open_bundle(bundle_copy).golden
    with pytest.raises(BundleError, match="not a readable npz"):
        describe_arrays(bundle_copy / "golden.npz")


def test_golden_samples_that_are_no_archive(bundle_copy):
    (bundle_copy / "golden.npz").write_bytes(b"PK\x03\x04 no archive")
    rewrite_manifest(bundle_copy)
    with pytest.raises(BundleError, match="not a readable npz"):
        _ = open_bundle(bundle_copy).golden


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["action.npy", "action"])
def test_array_that_is_there_twice_is_refused(bundle_copy, second):
    """Python takes the last one, another reader may take the first."""
    with zipfile.ZipFile(bundle_copy / "golden.npz", "a") as archive:
        archive.writestr(second, archive.read("action.npy"))
    rewrite_manifest(bundle_copy)
    with pytest.raises(BundleError, match="an array is there twice"):
        _ = open_bundle(bundle_copy).golden
    with pytest.raises(OnboardFault, match="an array is there twice"):
        load_bundle(bundle_copy)

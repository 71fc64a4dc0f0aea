"""Whatever a bundle holds ends in a failed check with a name and a report, never in a traceback."""

import json
import os
import random
import shutil
import zipfile

import numpy as np
import pytest

from deploy_kit.bundle.reader import BUNDLE_FILES
from deploy_kit.errors import BundleError, OptionError
from deploy_kit.files import file_sha256
from deploy_kit.verify.report import Status
from deploy_kit.verify.summary import read_report
from deploy_kit.verify.verifier import verify_bundle
from helpers.bundles import edit_golden, rewrite_manifest
from helpers.powers import without_overriding

BARE = {"feature_file": None, "replay": False, "random_rows": 2, "torchscript": False}


def failed(run, bundle):
    """Return the names of the failed checks; the report in the folder must hold them."""
    report = verify_bundle(run.verify(bundle=bundle, **BARE))
    assert not report.passed
    written = read_report(bundle / "report.json")
    assert not written.passed
    # Reading adds checks that a bundle has which could be opened.
    assert written.verdicts[: len(report.verdicts)] == report.verdicts
    assert {verdict.reasons for verdict in written.verdicts[len(report.verdicts) :]} <= {("missing in the report",)}
    return {verdict.name: verdict.reasons for verdict in report.verdicts if verdict.status is Status.FAILED}


@pytest.mark.parametrize("name", ["manifest.json", *BUNDLE_FILES])
@pytest.mark.parametrize("keep", [0, 7, 0.5])
def test_truncated_file(run, bundle_copy, name, keep):
    path = bundle_copy / name
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    assert set(failed(run, bundle_copy)) == {"bundle/manifest"}
    if name != "manifest.json":
        rewrite_manifest(bundle_copy)
        expected = {
            "policy.onnx": {"onnx/provider", "onnx/operators"},
            "policy.pt": {"torchscript/proof"},
            "policy.safetensors": {"safetensors/tensors"},
            "contract.json": {"contract/schema"},
            "golden.npz": {"golden/stored-outputs"},
        }[name]
        assert expected & set(failed(run, bundle_copy))


@pytest.mark.parametrize("name", BUNDLE_FILES)
def test_missing_file(run, bundle_copy, name):
    (bundle_copy / name).unlink()
    assert name in failed(run, bundle_copy)["bundle/manifest"][0]


@pytest.mark.parametrize("name", ["manifest.json", *BUNDLE_FILES])
def test_unreadable_file(run, bundle_copy, name):
    (bundle_copy / name).chmod(0)
    with without_overriding():
        assert name in failed(run, bundle_copy)["bundle/manifest"][0]


def deep(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("text", ["", "[]", "3", deep(100_000), '{"manifest_version": 1, "files": []}', "\x00\xff"])
def test_manifest_that_is_none(run, bundle_copy, text):
    (bundle_copy / "manifest.json").write_bytes(text.encode("latin-1"))
    assert set(failed(run, bundle_copy)) == {"bundle/manifest"}


@pytest.mark.parametrize("name", ["../policy.onnx", "/etc/passwd", "a\0b", "", ".", "report.json", "x" * 300])
def test_manifest_that_names_other_files(run, bundle_copy, name):
    data = json.loads((bundle_copy / "manifest.json").read_text())
    data["files"][name] = data["files"]["policy.onnx"]
    (bundle_copy / "manifest.json").write_text(json.dumps(data))
    assert set(failed(run, bundle_copy)) == {"bundle/manifest"}


def test_manifest_that_lists_a_file_in_the_reports_place(run, bundle_copy):
    (bundle_copy / "report.json").write_text("mine")
    data = json.loads((bundle_copy / "manifest.json").read_text())
    data["files"]["report.json"] = {"sha256": file_sha256(bundle_copy / "report.json"), "size": 4}
    (bundle_copy / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(OptionError, match=r"move it away.*it lists report\.json, which lies beside a bundle"):
        verify_bundle(run.verify(bundle=bundle_copy, **BARE))
    assert (bundle_copy / "report.json").read_text() == "mine"
    report = verify_bundle(run.verify(bundle=bundle_copy, report=bundle_copy.parent / "report.json", **BARE))
    assert "it lists report.json" in report.verdict("bundle/manifest").reasons[0]


@pytest.mark.parametrize("kind", ["itself", "link", "hard link", "copy beside it"])
def test_checkpoint_of_the_bundle_itself_is_no_truth(run, bundle_copy, kind):
    own = bundle_copy / "policy.safetensors"
    given = {"itself": own, "copy beside it": bundle_copy / "report.safetensors"}.get(kind, bundle_copy.parent / "own")
    if kind == "link":
        given.symlink_to(own)
    elif kind == "hard link":
        given.hardlink_to(own)
    elif kind == "copy beside it":
        shutil.copy(own, given)
    with pytest.raises(OptionError, match="lies in the bundle"):
        verify_bundle(run.verify(bundle=bundle_copy, checkpoint=given, **BARE))
    assert not (bundle_copy / "report.json").exists()


def test_manifest_that_is_a_pipe(run, bundle_copy):
    (bundle_copy / "manifest.json").unlink()
    os.mkfifo(bundle_copy / "manifest.json")
    assert set(failed(run, bundle_copy)) == {"bundle/manifest"}


def test_manifest_that_is_a_link(run, bundle_copy):
    (bundle_copy / "manifest.json").rename(bundle_copy.parent / "elsewhere.json")
    (bundle_copy / "manifest.json").symlink_to(bundle_copy.parent / "elsewhere.json")
    assert set(failed(run, bundle_copy)) == {"bundle/manifest"}


def test_manifest_with_a_name_that_is_no_text(run, bundle_copy):
    data = json.loads((bundle_copy / "manifest.json").read_text())
    data["files"]["\ud800"] = data["files"]["policy.onnx"]
    (bundle_copy / "manifest.json").write_text(json.dumps(data))
    assert set(failed(run, bundle_copy)) == {"bundle/manifest"}


@pytest.mark.parametrize(
    ("path", "value", "check"),
    [
        (("inputs", 0, "shape"), [], "contract/fields"),
        (("inputs", 0, "shape", 1), 10**400, "contract/inputs"),
        (("provenance", "checkpoint_sha256"), "\ud800", "contract/schema"),
        (("gate", "training"), {"\ud800": 1.0}, "contract/schema"),
    ],
    ids=["no shape", "endless shape", "half a character", "half a character as key"],
)
def test_contract_that_python_cannot_take(run, bundle_copy, path, value, check):
    data = json.loads((bundle_copy / "contract.json").read_text())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (bundle_copy / "contract.json").write_text(json.dumps(data))
    rewrite_manifest(bundle_copy)
    assert check in failed(run, bundle_copy)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


WRONG = (None, True, -1, 10**400, "", "x" * 5000, [], {}, [[[]]], {"a": {}}, 1e308)


def test_contract_of_wrong_types_anywhere(run, bundle_copy):
    """Thirty drawn places; a seed of their own each time would make the test's verdict one of luck."""
    text = (bundle_copy / "contract.json").read_text()
    rng = random.Random(3)
    for path in rng.sample(list(places(json.loads(text)))[1:], 30):
        data = json.loads(text)
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong = rng.choice([value for value in WRONG if value != place[path[-1]]])
        (bundle_copy / "contract.json").write_text(json.dumps(data))
        rewrite_manifest(bundle_copy)
        assert failed(run, bundle_copy), (path, wrong)


@pytest.mark.parametrize("text", [deep(100_000), '{"schema_version": 2}', "{", '{"schema_version": NaN}', "\ud800"])
def test_contract_that_is_none(run, bundle_copy, text):
    (bundle_copy / "contract.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    rewrite_manifest(bundle_copy)
    assert set(failed(run, bundle_copy)) == {"contract/schema"}


def npz(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    "change",
    [
        {"action": np.zeros((16, 5), np.float32)},
        {"action": np.zeros((15, 4), np.float32)},
        {"action": np.zeros(0, np.float32)},
        {"observation": np.float32(0)},
        {"observation": np.zeros((16, 784), np.float64)},
        {"features": np.full((16, 24), np.nan, np.float32)},
        {"reason": np.zeros(16)},
        {"source": np.array(["a", "b"])},
        {"gate_terms": None},
        {"more": np.zeros(3)},
        {"reason": np.full(16, "\ud800")},
    ],
    ids=lambda change: f"{next(iter(change))}",
)
def test_golden_samples_of_wrong_shapes(run, bundle_copy, change):
    edit_golden(bundle_copy, **change)
    assert set(failed(run, bundle_copy)) == {"golden/stored-outputs"}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(40)),
        lambda path: path.write_bytes(b""),
        lambda path: npz(path, **{"observation.npy": b"\x93NUMPY\x01\x00\xff\xff{"}),
        lambda path: npz(path, **{"observation.npy": b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16}),
        lambda path: np.savez(path, observation=np.array([object()], dtype=object)),
        lambda path: path.write_bytes(path.read_bytes()[:-30] + bytes(30)),
    ],
    ids=["cut", "empty", "long header", "bad header", "pickle", "broken directory"],
)
def test_golden_samples_that_are_none(run, bundle_copy, write):
    write(bundle_copy / "golden.npz")
    rewrite_manifest(bundle_copy)
    names = failed(run, bundle_copy)
    assert set(names) == {"golden/stored-outputs"}


def test_bytes_flipped_anywhere(run, bundle_copy):
    rng = random.Random(5)
    for name in BUNDLE_FILES:
        data = (bundle_copy / name).read_bytes()
        for _ in range(3):
            broken = bytearray(data)
            for _ in range(8):
                broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
            (bundle_copy / name).write_bytes(bytes(broken))
            rewrite_manifest(bundle_copy)
            report = verify_bundle(run.verify(bundle=bundle_copy, **BARE))
            # A flipped bit in an archive's padding or in a free text may change nothing that is checked.
            assert report.verdicts
        (bundle_copy / name).write_bytes(data)


def test_folder_that_holds_nothing_of_a_bundle_is_a_mistyped_path(run, tmp_path):
    for folder in (tmp_path, tmp_path / "none", run.checkpoint):
        with pytest.raises(BundleError):
            verify_bundle(run.verify(bundle=folder, **BARE))
    assert list(tmp_path.iterdir()) == []

import json
import shutil

import pytest

import deploy_kit.verify.verifier
from deploy_kit.errors import DatasetError, InputError, OptionError
from deploy_kit.files import file_sha256
from deploy_kit.verify.report import Status
from deploy_kit.verify.report_file import ReportFile
from deploy_kit.verify.summary import describe_report, describe_verification, read_report
from deploy_kit.verify.verifier import verify_bundle
from helpers.bundles import copy_bundle, edit_golden, put_a_weight_off
from helpers.powers import without_overriding

BARE = {"feature_file": None, "replay": False, "random_rows": 4, "torchscript": False}


@pytest.fixture(scope="module")
def verified(run, tmp_path_factory):
    """A bundle with the report of a quick verification beside it; to be copied."""
    bundle = copy_bundle(run.bundle, tmp_path_factory.mktemp("verified") / "bundle")
    assert verify_bundle(run.verify(bundle=bundle, **BARE)).passed
    return bundle


@pytest.fixture
def bundle(verified, tmp_path):
    return shutil.copytree(verified, tmp_path / "bundle")


def state(bundle):
    return describe_verification(bundle)["state"]


def test_report_is_of_the_very_files(run, bundle, tmp_path):
    assert state(bundle) == "verified, but for what was switched off"
    assert describe_report(bundle / "report.json")["bundle_beside"] == "this report is of the bundle beside it"
    # Another bundle, to which the report was copied.
    put_a_weight_off(bundle)
    assert state(bundle) == "not verified: report.json is of ANOTHER bundle"
    assert "ANOTHER" in describe_report(bundle / "report.json")["bundle_beside"]
    report = verify_bundle(run.verify(bundle=bundle, **BARE))
    assert not report.passed
    assert (report.replaces.passed, report.replaces.same_bundle) == (True, False)
    assert state(bundle) == "verification FAILED"
    (bundle / "report.json").write_text("{}")
    assert state(bundle).startswith("not verified: ")
    (bundle / "report.json").unlink()
    assert state(bundle) == "not verified: no report lies beside the bundle"


def test_failed_run_says_that_it_replaces_a_good_report_of_these_files(run, other_run, bundle):
    before = file_sha256(bundle / "report.json")
    report = verify_bundle(run.verify(bundle=bundle, checkpoint=other_run.checkpoint, **BARE))
    assert not report.passed
    replaced = read_report(bundle / "report.json").replaces
    assert replaced == report.replaces
    assert (replaced.sha256, replaced.passed, replaced.complete, replaced.same_bundle) == (before, True, False, True)


def make_complete(path):
    """Let a report say that it is complete: what was switched off is gone, as nothing else of it matters here."""
    data = json.loads(path.read_text())
    data["complete"] = True
    path.write_text(json.dumps(data))
    return path.read_bytes()


def test_complete_report_is_kept_beside_an_incomplete_one_of_the_same_bundle(run, bundle):
    before, kept = make_complete(bundle / "report.json"), bundle / "report-complete.json"
    report = verify_bundle(run.verify(bundle=bundle, **BARE))
    assert report.passed
    assert not report.complete
    assert kept.read_bytes() == before
    # A bundle with both is one as it should be, and the kept report outlives further incomplete runs.
    assert verify_bundle(run.verify(bundle=bundle, **BARE)).passed
    assert kept.read_bytes() == before
    # Another bundle's is not kept.
    kept.unlink()
    make_complete(bundle / "report.json")
    put_a_weight_off(bundle)
    verify_bundle(run.verify(bundle=bundle, **BARE))
    assert not kept.exists()


def test_kept_report_goes_where_the_run_ends_otherwise(run, bundle, monkeypatch):
    before, kept = make_complete(bundle / "report.json"), bundle / "report-complete.json"

    def run_checks(*arguments):
        assert kept.read_bytes() == before
        raise error

    monkeypatch.setattr(deploy_kit.verify.verifier, "run_checks", run_checks)
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        verify_bundle(run.verify(bundle=bundle, **BARE))
    assert (bundle / "report.json").read_bytes() == before
    assert not kept.exists()
    error = MemoryError()
    with pytest.raises(MemoryError):
        verify_bundle(run.verify(bundle=bundle, **BARE))
    assert kept.read_bytes() == before
    # What is no report is not overwritten.
    (bundle / "report.json").write_bytes(before)
    kept.write_text("mine")
    with pytest.raises(OptionError, match="report-complete"):
        verify_bundle(run.verify(bundle=bundle, **BARE))
    assert kept.read_text() == "mine"
    assert (bundle / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("error", "kept"),
    [(KeyboardInterrupt(), True), (InputError("the user's"), True), (MemoryError(), False), (SystemExit(9), False)],
    ids=lambda value: type(value).__name__,
)
def test_report_does_not_outlive_a_run_that_was_killed(run, bundle, monkeypatch, error, kept):
    def run_checks(*arguments):
        raise error

    monkeypatch.setattr(deploy_kit.verify.verifier, "run_checks", run_checks)
    before = (bundle / "report.json").read_bytes()
    with pytest.raises(type(error)):
        verify_bundle(run.verify(bundle=bundle, **BARE))
    assert ((bundle / "report.json").read_bytes() == before) is kept
    assert state(bundle) == ("verified, but for what was switched off" if kept else "verification FAILED")
    if not kept:
        assert read_report(bundle / "report.json").verdict("run/finished").status is Status.FAILED


def test_interrupted_first_run_leaves_no_report(run, shared_bundle, tmp_path, monkeypatch):
    def run_checks(*arguments):
        assert (bundle / "report.json").exists()
        raise KeyboardInterrupt

    bundle = copy_bundle(shared_bundle.path, tmp_path / "bundle")
    monkeypatch.setattr(deploy_kit.verify.verifier, "run_checks", run_checks)
    with pytest.raises(KeyboardInterrupt):
        verify_bundle(run.verify(bundle=bundle, **BARE))
    assert not (bundle / "report.json").exists()


def test_bad_input_keeps_the_report(run, bundle, tmp_path):
    before = (bundle / "report.json").read_bytes()
    with pytest.raises(DatasetError):
        verify_bundle(run.verify(bundle=bundle, feature_file=tmp_path / "none.h5"))
    assert (bundle / "report.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"notes", b"{}", b"[]", b'{"checks": [], "verdicts": []}', b"[" * 100_000])
def test_only_a_report_is_overwritten(run, bundle, tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="no report"):
        verify_bundle(run.verify(bundle=bundle, report=path, **BARE))
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["contract.json", "manifest.json", "policy.onnx", "notes.json"])
def test_a_report_is_not_put_among_the_bundles_files(run, bundle, name):
    files = {path.name: file_sha256(path) for path in bundle.iterdir()}
    with pytest.raises(OptionError, match=name):
        verify_bundle(run.verify(bundle=bundle, report=bundle / name, **BARE))
    assert {path.name: file_sha256(path) for path in bundle.iterdir()} == files


def test_links_and_folders_are_not_overwritten(bundle, tmp_path):
    target = tmp_path / "target.json"
    target.write_bytes((bundle / "report.json").read_bytes())
    (tmp_path / "link.json").symlink_to(target)
    for name in ("link.json", "bundle"):
        with pytest.raises(OptionError, match="no regular file"):
            ReportFile(tmp_path / name, bundle)


def test_place_that_cannot_be_written_is_refused_before_the_work(run, bundle, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    told = []
    with without_overriding(), pytest.raises(InputError, match="cannot be written"):
        verify_bundle(run.verify(bundle=bundle, report=folder / "report.json", **BARE), told.append)
    assert told == []


def test_bundle_that_changes_during_the_run_fails(run, bundle, monkeypatch):
    run_checks = deploy_kit.verify.verifier.run_checks

    def change(*arguments):
        found = run_checks(*arguments)
        edit_golden(bundle, extra=None)
        manifest = json.loads((bundle / "manifest.json").read_text())
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        return found

    monkeypatch.setattr(deploy_kit.verify.verifier, "run_checks", change)
    report = verify_bundle(run.verify(bundle=bundle, **BARE))
    assert report.verdict("bundle/unchanged").status is Status.FAILED

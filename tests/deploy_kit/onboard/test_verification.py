"""The runner flies what a report of these very files says was verified, and nothing else."""

import itertools
import json

import pytest

from deploy_kit.bundle import runtime
from deploy_kit.files import file_sha256
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy
from deploy_kit.onboard.__main__ import main
from deploy_kit.onboard.options import LEVELS
from deploy_kit.onboard.verification import REPORT_VERSION
from deploy_kit.verify.report import SCHEMA_VERSION
from helpers.bundles import copy_bundle

TWO_THREADS = OnboardOptions(threads=2)


def report(folder, **changes):
    data = {
        "schema_version": REPORT_VERSION,
        "passed": True,
        "complete": True,
        "subject": {"manifest_sha256": file_sha256(folder / "manifest.json")},
        "runtimes": [
            {"provider": "CPUExecutionProvider", "level": level, "threads": 2, "tf32": False}
            for level in ("all", "basic")
        ],
        **changes,
    }
    (folder / "report.json").write_text(json.dumps(data))


@pytest.fixture
def folder(bundles, tmp_path):
    return copy_bundle(bundles.plain, tmp_path / "bundle")


def refuse(folder, words, options=None):
    with pytest.raises(OnboardFault, match=words) as raised:
        OnboardPolicy(folder, options)
    assert raised.value.fault is Fault.NOT_VERIFIED


def test_without_a_report_only_what_export_verifies_flies(folder):
    assert OnboardPolicy(folder).verification.state == "absent"
    refuse(
        folder, r"2 threads was not verified, only CPUExecutionProvider, level all, 1 threads .* is absent", TWO_THREADS
    )
    refuse(folder, "level basic", OnboardOptions(level="basic"))
    assert OnboardPolicy(folder, OnboardOptions(threads=2, allow_unverified=True)).self_check < 1


def test_a_report_of_these_files_says_what_flies(folder):
    report(folder)
    assert OnboardPolicy(folder, TWO_THREADS).verification.state == "verified"
    assert OnboardPolicy(folder, OnboardOptions(threads=2, level="basic")).verification.complete
    refuse(folder, "1 threads was not verified")
    refuse(folder, "level disabled", OnboardOptions(threads=2, level="disabled"))


def test_a_failed_verification_does_not_fly(folder):
    report(folder, passed=False)
    refuse(folder, "these very files failed", TWO_THREADS)
    assert OnboardPolicy(folder, OnboardOptions(allow_unverified=True)).verification.state == "failed"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"subject": {"manifest_sha256": "0" * 64}}, "of another bundle"),
        ({"schema_version": 2}, "unreadable"),
        ({"runtimes": [3]}, "unreadable"),
        ({"runtimes": None}, "unreadable"),
        ({"subject": []}, "unreadable"),
        ({"passed": "yes"}, "failed"),
        ({"verdicts": [{"name": "replay/kept/onnx", "status": "failed"}]}, "failed"),
    ],
    ids=str,
)
def test_a_report_that_says_nothing_of_these_files_allows_nothing(folder, changes, state):
    report(folder, **changes)
    if state == "failed":
        refuse(folder, "failed")
        return
    assert OnboardPolicy(folder).verification.state == state
    refuse(folder, f"is {state}", TWO_THREADS)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"schema_version": 3}'])
def test_broken_reports(folder, content):
    (folder / "report.json").write_bytes(content)
    assert OnboardPolicy(folder).verification.state == "unreadable"


def test_command_says_what_is_known(folder, capsys):
    report(folder, complete=False)
    # A clock of its own, for on a busy machine two threads may take longer than the period.
    clock = itertools.count(0, 1000).__next__
    assert main([str(folder), "--threads", "2", "--steps", "100"], clock) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "report beside the bundle: these very files were verified, but for what was switched off"
    assert main([str(folder), "--steps", "100"]) == 1
    assert "not_verified" in capsys.readouterr().err
    assert main([str(folder), "--steps", "100", "--allow-unverified"], clock) == 0


def test_names_are_those_of_verify():
    assert runtime.LEVELS == LEVELS
    assert REPORT_VERSION == SCHEMA_VERSION


@pytest.mark.parametrize("options", [{"level": "most"}, {"tf32": True}])
def test_wrong_options(options):
    with pytest.raises(OnboardFault) as raised:
        OnboardOptions(**options)
    assert raised.value.fault is Fault.OPTIONS


def test_tf32_is_off_unless_asked_for():
    cuda = "CUDAExecutionProvider"
    assert OnboardOptions(provider=cuda).all_provider_options == {"use_tf32": "0"}
    assert not OnboardOptions(provider=cuda).runtime.tf32
    assert OnboardOptions(provider=cuda, tf32=True).runtime.tf32
    assert OnboardOptions(provider=cuda, provider_options={"use_tf32": "1"}).runtime.tf32

import json
import xml.etree.ElementTree as ET

import pytest

from deploy_kit.verify.verifier import verify_bundle


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("recheck") / "report.json"
    verify_bundle(run.verify(feature_file=None, replay=False, random_rows=4, report=path))
    return path


def profile(path, absolute):
    limits = {"parity": {"absolute": absolute, "relative": 0.0}}
    path.write_text(json.dumps({"profile_version": 1, "profile": "ours", "limits": limits}))
    return path


def test_figures_are_judged_again_without_the_bundle(cli, report, tmp_path):
    before = report.read_bytes()
    result = cli("verify", "--recheck", report)
    assert result.code == 0, result
    assert "Limits: profile fp32" in result.stdout
    assert "Judged again, nothing was run: no bundle lies beside this report" in result.stdout
    strict = profile(tmp_path / "strict.json", 1e-12)
    result = cli("verify", "--recheck", report, "--profile", strict, "--report", tmp_path / "again.json")
    assert result.code == 1
    assert "Limits: profile ours" in result.stdout
    assert "FAILED" in result.stdout.splitlines()[-2]
    again = json.loads((tmp_path / "again.json").read_text())
    assert (again["passed"], again["thresholds"]["profile"]) == (False, "ours")
    assert again["checks"] == json.loads(before)["checks"]
    assert report.read_bytes() == before
    assert cli("verify", "--recheck", tmp_path / "again.json", "--profile", "fp32").code == 0


def test_what_else_is_written_of_a_report(cli, report, tmp_path):
    junit, summary, again = tmp_path / "junit.xml", tmp_path / "summary.md", tmp_path / "again.json"
    told = cli("verify", "--recheck", report, "--report", again, "--junit", junit, "--summary", summary)
    assert told.code == 0, told
    verdicts = json.loads(report.read_text())["verdicts"]
    assert {case.get("name") for case in ET.parse(junit).getroot().iter("testcase")} == {v["name"] for v in verdicts}
    assert summary.read_text().startswith("### ⚠️ VERIFIED, but not complete")
    assert "Figures were judged again" in (tmp_path / "again.html").read_text()
    for path in (junit, summary, tmp_path / "again.html"):
        assert f"Wrote {path}" in told.stdout
    # The page of the first run lies beside its report.
    assert "Depth image of case 1" in report.with_suffix(".html").read_text()
    junit.write_text("mine")
    told = cli("verify", "--recheck", report, "--junit", junit)
    assert (told.code, junit.read_text()) == (2, "mine")


def test_what_was_switched_off_is_not_complete(cli, report):
    assert cli("verify", "--recheck", report, "--require-complete").code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recheck", "none.json"), "none.json"),
        (("--recheck", "R", "BUNDLE"), "has no effect with --recheck"),
        (("--recheck", "R", "--no-live"), "--no-live has no effect with --recheck"),
        (("--recheck", "R", "--profile", "fp23"), "did you mean 'fp32'"),
        ((), "no bundle: give its folder, or --recheck REPORT"),
    ],
    ids=str,
)
def test_bad_input(cli, report, tmp_path, words, message):
    result = cli("verify", *(report if word == "R" else word for word in words))
    assert result.code == 2
    assert message in result.stderr


def test_only_a_report_is_overwritten(cli, report, tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    result = cli("verify", "--recheck", report, "--report", tmp_path / "notes.json")
    assert result.code == 2
    assert (tmp_path / "notes.json").read_text() == "{}"

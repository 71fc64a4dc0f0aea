import io
import json
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from deploy_kit.bundle.reader import BUNDLE_FILES
from deploy_kit.cli import verify_result
from deploy_kit.cli.console import Output
from deploy_kit.errors import InputError
from deploy_kit.verify.summary import read_report
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


def test_characters_that_a_terminal_obeys_are_shown_escaped(cli, report, tmp_path):
    data = json.loads(report.read_text())
    data["checks"][0]["compared"] = data["created_utc"] = "\x1b[2Jred\u202e"
    odd, junit, summary = (tmp_path / name for name in ("odd.json", "junit.xml", "summary.md"))
    odd.write_text(json.dumps(data))
    told = cli(
        "verify", "--recheck", odd, "--junit", junit, "--summary", summary, "--report", tmp_path / "report-again.json"
    )
    assert told.code == 0, told
    assert r"\x1b[2Jred\u202e" in told.stdout
    assert r"\x1b[2Jred\u202e" in ET.parse(junit).getroot()[0].get("timestamp")
    for text in (told.stdout, junit.read_text(), summary.read_text(), (tmp_path / "report-again.html").read_text()):
        assert not {"\x1b", "\u202e"} & set(text)
    (tmp_path / "bundle").mkdir()
    files = {name: {"sha256": "\x1b[2J", "size": 0} for name in BUNDLE_FILES}
    for name in BUNDLE_FILES:
        (tmp_path / "bundle" / name).touch()
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps({"manifest_version": 1, "files": files}))
    told = cli("inspect", tmp_path / "bundle")
    assert told.code == 2
    assert r"the manifest says \x1b[2J" in told.stderr


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


def changed(report, path, change):
    data = json.loads(report.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def keep_one(data):
    del data["checks"][1:]


def drop(name):
    return lambda data: data.update(checks=[check for check in data["checks"] if check["name"] != name])


def switch_off(name, switch):
    def change(data):
        data["checks"] = [
            {"kind": "not run", "name": name, "reason": switch, "switch": switch} if check["name"] == name else check
            for check in data["checks"]
        ]

    return change


def test_report_is_held_to_the_checks_that_its_options_imply(cli, report, tmp_path):
    path = tmp_path / "report.json"
    result = cli("verify", "--recheck", changed(report, path, keep_one))
    assert result.code == 1
    assert "onnx/proof was not run, and no option switched it off" in result.stdout
    for name in (check["name"] for check in json.loads(report.read_text())["checks"]):
        assert not read_report(changed(report, path, drop(name))).passed, name
    assert read_report(report).passed


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("torchscript/run", "--no-torchscript"),
        ("onnx/proof", "--no-replay"),
        ("onnx/proof", "--no-proof"),
        ("contract/action", "--no-vehicle"),
        ("contract/network", "--no-live"),
        ("replay/golden/onnx", "log import"),
    ],
)
def test_only_an_option_that_was_given_switches_a_check_off(report, tmp_path, name, switch):
    path = tmp_path / "report.json"
    found = read_report(changed(report, path, switch_off(name, switch)))
    assert not found.passed
    assert [check.name for check in found.left_out] == [name]


def test_further_runtimes_must_have_been_checked(report, tmp_path):
    path = changed(report, tmp_path / "report.json", lambda data: data["options"].update(onnx_threads=[1, 2]))
    missing = [check.name for check in read_report(path).left_out]
    assert "onnx/provider@cpu-all-2" in missing
    assert "replay/golden/onnx@cpu-all-2" in missing
    for wrong in (3, [[1]], ["x"], {"a": 1}):
        # The function is called within this turn of the loop.
        path = changed(report, tmp_path / "report.json", lambda data: data["options"].update(onnx_threads=wrong))  # noqa: B023
        with pytest.raises(InputError, match="runtimes"):
            read_report(path)


def test_check_listed_twice_is_refused(cli, report, tmp_path):
    path = changed(report, tmp_path / "report.json", lambda data: data["checks"].append(data["checks"][3]))
    result = cli("verify", "--recheck", path)
    assert result.code == 2
    assert "twice" in result.stderr


def test_limits_are_those_of_the_profile_that_is_named(cli, report, tmp_path):
    def widen(data):
        data["thresholds"]["parity"]["absolute"] = 1.0

    path = changed(report, tmp_path / "report.json", widen)
    result = cli("verify", "--recheck", path)
    assert result.code == 2
    assert "--profile fp32" in result.stderr
    assert cli("verify", "--recheck", path, "--profile", "fp32").code == 0


def test_what_is_narrow_is_told_with_the_limits_of_its_profile(cli, report, tmp_path):
    changed = json.loads(report.read_text())
    check = next(check for check in changed["checks"] if check["kind"] == "parity")
    check["profile"] = "int8"
    narrow = tmp_path / "narrow.json"
    narrow.write_text(json.dumps(changed))
    out = cli("verify", "--recheck", narrow, "--profile", "fp32").stdout
    assert f"limit of {check['name']}, profile int8: 0.15 + 1e-01·|ref|" in out
    assert "Limits: profile fp32; of what is narrow: int8" in out


def test_a_narrow_terminal_breaks_no_check_s_name(report, monkeypatch):
    def shown(width: int) -> list[str]:
        output, file = Output(error=False), io.StringIO()
        output.console = Console(file=file, width=width)
        with monkeypatch.context() as patch:
            patch.setattr(Output, "is_terminal", True)
            patch.setattr(verify_result, "stdout", output)
            verify_result.show(read_report(report), report)
        return [line.rstrip() for line in file.getvalue().splitlines()]

    narrow, wide = shown(60), shown(160)
    at = next(number for number, line in enumerate(narrow) if "onnx/valid" in line)
    assert narrow[at + 1].strip() == "graph against the ONNX specification"
    assert any("onnx/valid" in line and "graph against the ONNX specification" in line for line in wide)

import html
import re
import xml.etree.ElementTree as ET

import pytest

from deploy_kit.errors import InputError, OptionError
from deploy_kit.verify.outputs.junit import junit_xml, write_junit
from deploy_kit.verify.outputs.markdown import append_summary, markdown_summary
from deploy_kit.verify.report import FactCheck

HOSTILE = "a|b`c*d_e <img src=x onerror=alert(1)> [x](http://evil) @someone #1 ]]> \x00\x1b[31m\r\n\u202e\ud800"
SHOWN = r"a|b`c*d_e <img src=x onerror=alert(1)> [x](http://evil) @someone #1 ]]> \x00\x1b[31m\r\n\u202e\ud800"


def test_junit_has_a_case_a_check(failing):
    root = ET.fromstring(junit_xml(failing))
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("skipped")) == ("testsuites", "4", "2", "1")
    assert [suite.get("name") for suite in root] == ["onnx", "replay", "live"]
    cases = {case.get("name"): case for case in root.iter("testcase")}
    for verdict in failing.verdicts:
        case = cases.pop(verdict.name)
        kind = {"passed": None, "failed": "failure", "not run": "skipped"}[verdict.status]
        assert [child.tag for child in case if child.tag != "system-out"] == ([kind] if kind else [])
        if kind == "failure":
            assert case.find("failure").text == "\n".join(verdict.reasons)
    assert cases == {}
    for suite in root:
        assert int(suite.get("tests")) == len(list(suite))
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))


def test_names_are_data_in_junit(make_report):
    root = ET.fromstring(junit_xml(make_report(FactCheck(f"onnx/{HOSTILE}", HOSTILE, 1, (HOSTILE,)))))
    (case,) = root.iter("testcase")
    assert case.get("name") == f"onnx/{SHOWN}"
    assert case.find("failure").get("message") == case.find("failure").text == SHOWN


def test_junit_replaces_its_own_kind_alone(passing, failing, tmp_path):
    target = tmp_path / "deep" / "junit.xml"
    write_junit(target, passing)
    write_junit(target, failing)
    assert ET.parse(target).getroot().get("failures") == "2"
    for content in ("mine", "<?xml version='1.0'?><other/>"):
        target.write_text(content)
        with pytest.raises(OptionError, match="is no JUnit file and is not overwritten"):
            write_junit(target, failing)
        assert target.read_text() == content


def test_the_summary_says_what_failed_and_why(failing):
    text = html.unescape(markdown_summary(failing))
    assert text.startswith("### ❌ FAILED\n")
    name, share = failing.worst_share
    assert f"Largest error: {share:.2f} of its limit, in {name}." in text
    bad = text[: text.index("<details>")]
    for verdict in failing.verdicts:
        assert (verdict.name in bad.split("| why |")[1]) is (verdict.status != "passed")
        assert all(reason in bad for reason in verdict.reasons)
    assert "| live/driving, gates | 6.500 | 6.500 | +0.000 … +0.000 |" in text


@pytest.mark.parametrize(("fixture", "headline"), [("passing", "### ✅ VERIFIED"), ("failing", "### ❌ FAILED")])
def test_the_headline_is_the_verdict(fixture, headline, request):
    assert markdown_summary(request.getfixturevalue(fixture)).splitlines()[0] == headline


def test_names_are_data_in_markdown(make_report):
    text = markdown_summary(make_report(FactCheck(f"onnx/{HOSTILE}", "x", 1, (HOSTILE,)), name=HOSTILE))
    assert SHOWN in html.unescape(text)
    # No sign that Markdown or GitHub gives a meaning to is left, and the tables keep their columns.
    assert not re.search(r"<img|`|\[x\]|@someone|#1 |http:", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {4, 5}
    assert text.isprintable() or all(c.isprintable() or c == "\n" for c in text)


def test_the_summary_is_appended(passing, failing, tmp_path):
    target = tmp_path / "summary.md"
    target.write_text("before\n")
    append_summary(target, passing)
    append_summary(target, failing)
    assert target.read_text() == f"before\n{markdown_summary(passing)}{markdown_summary(failing)}"
    with pytest.raises(InputError, match="cannot be written"):
        append_summary(tmp_path, passing)

import pytest

from deploy_kit.errors import OptionError, TaskError
from deploy_kit.verify.outputs.page_file import PageFile, page_path
from deploy_kit.verify.verifier import verify_bundle


def test_the_page_lies_beside_its_report(run, tmp_path):
    report = verify_bundle(run.verify(report=tmp_path / "mine.json"))
    page = (tmp_path / "mine.html").read_text()
    assert f"{sum(v.status == 'passed' for v in report.verdicts)} checks passed" in page
    for part in ("Margins of", "Depth image of case 1", "replay/kept/onnx"):
        assert part in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.html", "mine.json"]
    assert page_path(tmp_path / "x.html").name == "x.html.html"


@pytest.mark.parametrize("error", [TaskError("x"), KeyboardInterrupt()])
def test_a_run_that_the_user_ends_leaves_the_page_as_it_was(passing, tmp_path, error):
    report = tmp_path / "report.json"
    with PageFile(report) as page:
        page.finish(passing, None)
    before = page.path.read_bytes()
    with pytest.raises(type(error)), PageFile(report):
        assert not page.path.exists()
        raise error
    assert page.path.read_bytes() == before


def test_a_run_that_breaks_leaves_no_page_of_another_run(passing, tmp_path):
    report = tmp_path / "report.json"
    with PageFile(report) as page:
        page.finish(passing, None)
    with pytest.raises(RuntimeError), PageFile(report):
        raise RuntimeError
    assert not page.path.exists()


def test_nothing_but_a_page_is_overwritten(tmp_path):
    (tmp_path / "report.html").write_text("<!doctype html><p>mine")
    with pytest.raises(OptionError, match=r"report\.html is no page of deploy-kit and is not overwritten"):
        PageFile(tmp_path / "report.json")
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OptionError, match="not overwritten"):
        PageFile(tmp_path / "report.json")

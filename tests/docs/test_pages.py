"""README and docs: links lead somewhere, named files exist, and text lines are short."""

import re
import subprocess
from pathlib import Path

import pytest

from deploy_kit.policy.extensions import ENTRY_POINTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "deploy_kit/assets/demo/*.md")
    for path in ROOT.glob(pattern)
)
LINE = 120
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = "deploy_kit|export|verify|tests|scripts|benchmarks|examples|docs|\\.github"
NAMED_FILE = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*[\w/]|[A-Z]+\.(?:md|cff))(?![\w*<-])")
NAMED_IN_PYTHON = re.compile(r"(?<![\w/])(deploy_kit(?:\.\w+)+)")


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages():
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/verify.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    broken = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (heading and heading not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def in_repository(name: str) -> bool:
    ignored = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False).returncode
    return (ROOT / name).exists() and ignored == 1


@pytest.mark.parametrize("page", PAGES)
def test_named_files_are_in_the_repository(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in NAMED_FILE.findall(text) if not in_repository(name)] == []


def test_comments_name_pages_that_exist():
    done = subprocess.run(
        ["git", "grep", "-hoE", r"\b[A-Z]+\.md\b", "--", "*.py", "scripts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    assert [name for name in set(done.stdout.split()) if not (ROOT / name).exists()] == []


def defined(name: str) -> bool:
    """Say whether a dotted name is a module, or is defined at the top of one, without importing it."""
    path, parts = ROOT, name.split(".")
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    if parts and (path / f"{parts[0]}.py").is_file():
        path /= f"{parts.pop(0)}.py"
    else:
        path /= "__init__.py"
    if not parts:
        return path.is_file()
    found = rf"^(?:(?:async )?def |class )?{parts[0]}\b|^    \"{parts[0]}\": "
    return path.is_file() and re.search(found, path.read_text(encoding="utf-8"), re.MULTILINE) is not None


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])  # it names what is gone
def test_names_in_python_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in NAMED_IN_PYTHON.findall(text) if name != ENTRY_POINTS and not defined(name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_text_lines_are_short(page):
    # A row of a table and an image cannot be broken.
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) >= LINE and line[:1] not in "|!"] == []


def test_readers_meet_one_name_for_masterracing():
    tracked = subprocess.run(
        ["git", "grep", "-lwiE", "the origin('s)?", "--", "*.md", "deploy_kit", "export", "verify"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tracked.returncode == 1, tracked.stdout + tracked.stderr

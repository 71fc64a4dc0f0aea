"""Files that only services and maintainers read: workflows, citation, changelog, shell scripts, pinned versions."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import deploy_kit
from deploy_kit.cli.verify import verify_command

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())


def check(schema: str, *files: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflows_are_valid(schema):
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]
    check(schema, *WORKFLOWS)


def test_the_examples_for_users_are_valid_and_name_options_that_exist():
    folder = ROOT / "examples" / "ci"
    workflow, hooks = folder / "verify-bundle.yml", folder / "pre-commit-config.yaml"
    assert {path.name for path in folder.iterdir()} == {workflow.name, hooks.name}
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        check(schema, workflow)
    own = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = yaml.safe_load(hooks.read_text(encoding="utf-8"))["repos"]
    (hook,) = repository["hooks"]
    assert repository["repo"] == "local" == own["repos"][0]["repo"]
    assert {"id", "name", "entry", "language"} <= set(hook)
    (job,) = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    commands = [hook["entry"], *(step["run"] for step in job["steps"] if "deploy-kit verify" in step.get("run", ""))]
    assert len(commands) == 2
    known = {option for parameter in verify_command.params for option in parameter.opts}
    for command in commands:
        assert set(re.findall(r"--[\w-]+", command)) - known == set()
    # The report's own files do not ask for another run, those of a bundle do.
    pattern = re.compile(hook["exclude"])
    assert [bool(pattern.search(f"bundles/racer/{name}")) for name in ("report.json", "report.html")] == [True, True]
    assert not pattern.search("bundles/racer/policy.onnx")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_scripts_that_exist(path):
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    commands = "\n".join(step["run"] for job in jobs.values() for step in job["steps"] if "run" in step)
    named = re.findall(r"scripts/[\w-]+", commands)
    assert named
    assert [name for name in named if not (ROOT / name).stat().st_mode & 0o100] == []


def test_the_tested_pythons_are_those_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [found[1] for text in project["classifiers"] if (found := re.fullmatch(r".*Python :: (3\.\d+)", text))]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"


def test_the_citation_is_valid_and_names_this_version():
    check("vendor.citation-file-format", ROOT / "CITATION.cff")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == deploy_kit.__version__


def test_the_changelog_names_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", deploy_kit.__version__] or headings[0] == deploy_kit.__version__


def test_scripts_are_clean_shell():
    command = [Path(sys.executable).with_name("shellcheck"), "--external-sources", *SCRIPTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pinned_versions_are_within_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {name.lower(): version for line in lines if "==" in line for name, version in [line.split("==")]}
    extras = project["optional-dependencies"]
    requirements = [
        Requirement(text) for text in (*project["dependencies"], *extras["cpu"], *extras["sim"], *extras["dev"])
    ]
    missing = [item.name for item in requirements if item.name.lower() not in pins]
    assert missing == []
    assert [str(item) for item in requirements if pins[item.name.lower()] not in item.specifier] == []

"""Runs the command line in the test's process and gathers what it did."""

from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from deploy_kit.cli.main import main


@pytest.fixture(autouse=True)
def _blank(pictures):
    """What pictures show is tested in the rooms that draw them."""


@dataclass
class Run:
    """One call: exit code, the two streams apart."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def cli():
    def run(*arguments: object) -> Run:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Run(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def refused(cli):
    """Call that must end with exit code 2 and one line that holds all the given words."""

    def run(*arguments: object, words: tuple[str, ...]) -> None:
        result = cli(*arguments)
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert result.code == 2, result
        assert len(errors) == 1, result.stderr
        assert result.stderr.rstrip().splitlines()[-1] == errors[0], "the error is the last thing said"
        for word in words:
            assert word in errors[0], errors[0]
        assert "Traceback" not in result.stderr + result.stdout

    return run

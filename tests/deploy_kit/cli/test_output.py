"""What goes into a pipe is neither wrapped nor cut, and every encoding will do."""

import io
import logging
import os
import subprocess
import sys

import pytest
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from deploy_kit.cli import console
from deploy_kit.cli.console import Output, degraded, set_up_encodings, set_up_logging
from helpers.bundles import copy_bundle

LONG = "/a/" + "very-long-folder/" * 40 + "[odd] :smile: name.h5"


@pytest.mark.parametrize("columns", ["40", "200"])
def test_text_tables_and_trees_keep_their_lines(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    table = Table(title=f"Title of {LONG}", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("path", Text(LONG))
    tree = Tree(Text(LONG))
    tree.add(Text(f"leaf {LONG}"))
    output = Output(error=False)
    output.print(LONG)
    output.print(table)
    output.print(tree)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1 + 3 + 2
    assert lines[0] == LONG
    assert lines[1] == f"Title of {LONG}"
    assert "path" in lines[3]
    assert all(LONG in lines[line] for line in (3, 5, 6))
    assert all(line == line.rstrip() for line in lines)


def test_a_log_line_is_one_line(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "40")
    logger = logging.getLogger("deploy_kit")
    before = logger.handlers, logger.level, logger.propagate
    try:
        set_up_logging(verbose=False)
        logging.getLogger("deploy_kit.policy").warning("%s is odd", LONG)
        logging.getLogger("deploy_kit.policy").debug("not shown")
    finally:
        logger.handlers, logger.level, logger.propagate = before
    assert stream.getvalue() == f"WARNING  {LONG} is odd\n"


def test_characters_have_likenesses_in_ascii():
    assert degraded("a → b, 3 m/s², 0.1 … 0.2, ±5 °, é, 漢") == "a -> b, 3 m/s2, 0.1 ... 0.2, +/-5  deg, e, ?"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b"m/s2 -> ... \xff +- box\n"),
        ("cp1252", b"m/s\xb2 -> \x85 \xff +- box\n"),
        ("utf-8", "m/s² → … ".encode() + b"\xff +- box\n"),
    ],
)
def test_a_stream_of_any_encoding_takes_every_character(monkeypatch, encoding, expected):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    set_up_encodings()
    # \udcff: a byte of a file's name that is no text.
    console.stdout.print("m/s² → … \udcff +- box")
    assert raw.getvalue() == expected


def call(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "deploy_kit", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


def test_a_console_of_another_encoding_keeps_the_exit_code_of_verify(run, tmp_path):
    folder = copy_bundle(run.bundle, tmp_path / "bündle → 2")
    verified = call(
        *("verify", folder, "--checkpoint", run.checkpoint, "--no-replay", "--no-live"),
        *("--no-torchscript", "--search-evaluations", 64),
        PYTHONIOENCODING="cp1252",
        COLUMNS="40",
    )
    assert verified.returncode == 0, verified.stderr
    said = verified.stdout.decode("cp1252")
    assert any(line.startswith("VERIFIED") for line in said.splitlines())
    assert "bündle -> 2" in said
    assert "Traceback" not in verified.stderr.decode("cp1252")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_of_another_encoding_is_told_what_is_wrong(tmp_path, encoding):
    refused = call("inspect", tmp_path / "no → file", PYTHONIOENCODING=encoding)
    assert refused.returncode == 2
    assert "no -> file" in refused.stderr.decode(encoding)
    help_ = call("--help", PYTHONIOENCODING=encoding)
    assert "collect -> finetune -> export -> verify" in help_.stdout.decode(encoding)

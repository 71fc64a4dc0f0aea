"""Options of finetune that only the command line has a word in."""

import click
import pytest

from deploy_kit.cli.finetune import ByteCount


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1GiB", 2**30), ("512MiB", 2**29), ("1.5g", 3 * 2**29), ("2048", 2048), ("64 KB", 2**16), ("7B", 7)],
)
def test_a_number_of_bytes_is_read(text: str, expected: int) -> None:
    assert ByteCount().convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 GB!", "1e9", "many"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a number of bytes, for example 1GiB"):
        ByteCount().convert(text, None, None)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--threshold-rule", "f2"), "--threshold-rule 'f2' is not f1"),
        (("--solver", "lbfgs", "--epochs", "5"), "--solver lbfgs has no use for --epochs, which Adam takes"),
        (("--solver", "lbfgs", "--resume"), "has no epochs; leave out --resume"),
        (("--resume", "--overwrite"), "leave one out"),
        (("--patience", "0"), "patience"),
        (("--norm", "l3"), "norm"),
    ],
)
def test_options_that_contradict_are_refused(refused, tmp_path, arguments, word) -> None:
    (tmp_path / "x.pt").touch()
    paths = ("--h5-path", tmp_path / "x.h5", "--policy-path", tmp_path / "x.pt", "--save-path", tmp_path / "out")
    refused("finetune", *paths, *arguments, words=(word,))

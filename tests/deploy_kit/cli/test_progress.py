"""Progress where no one looks: a line every ten seconds, with the time left."""

import pytest

from deploy_kit.cli.progress import ProgressLines, duration
from deploy_kit.progress import Progress


def test_lines_come_every_ten_seconds_and_tell_the_time_left(capsys):
    now = 100.0
    show = ProgressLines(lambda: now)
    for second in range(41):
        now = 100.0 + second
        show(Progress("rows", 10 + second, 110, "12 env steps/s"))
    now = 200.0
    show(Progress("rows", 110, 110))
    show(Progress("pictures", 0))
    assert capsys.readouterr().err.splitlines() == [
        "rows 9% · 12 env steps/s",
        "rows 18% · 12 env steps/s · 90 s left",
        "rows 27% · 12 env steps/s · 80 s left",
        "rows 36% · 12 env steps/s · 70 s left",
        "rows 45% · 12 env steps/s · 60 s left",
        "rows 100%",
        "pictures",
    ]


def test_end_of_a_short_phase_takes_no_line(capsys):
    now = 100.0
    show = ProgressLines(lambda: now)
    for phase, seconds in (("short", 0.9), ("longer", 1.0)):
        show(Progress(phase, 0, 2))
        now += seconds
        show(Progress(phase, 2, 2))
    assert capsys.readouterr().err.splitlines() == ["short 0%", "longer 0%", "longer 100%"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99.4, "99 s"),
        (150, "2 min"),
        (5400, "90 min"),
        (6000, "1.7 h"),
        (198_000, "55 h"),
        (9e5, "10 days"),
    ],
)
def test_a_length_of_time_reads_easily(seconds, text):
    assert duration(seconds) == text

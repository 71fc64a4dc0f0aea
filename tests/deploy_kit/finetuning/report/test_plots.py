from itertools import pairwise

import pytest
from matplotlib.figure import Figure

from deploy_kit.finetuning.report.plots import _probability_ticks
from deploy_kit.gate.correction import log_odds


@pytest.mark.parametrize("low", [-2.0, -8.0, -30.0, -100.0])
def test_probabilities_on_an_axis_of_logits_do_not_overlap(low):
    axis = Figure().subplots().xaxis
    _probability_ticks(axis, low, 3.0)
    texts = [label.get_text() for label in axis.get_ticklabels()]
    ticks = list(axis.get_ticklocs())
    assert len(ticks) >= 2
    assert ticks == [pytest.approx(log_odds(float(text))) for text in texts]
    assert all(right - left >= (3.0 - low) / 10 for left, right in pairwise(ticks))

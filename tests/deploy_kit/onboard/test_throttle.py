import math

import numpy as np
import pytest

from deploy_kit.onboard import Fault, OnboardFault
from deploy_kit.onboard.throttle import GRAVITY, ThrottleModel


@pytest.mark.parametrize("quadratic", [0.0, 0.3, 1.0])
def test_hover_thrust_gives_the_hover_throttle(quadratic):
    throttle, cut = ThrottleModel(0.31, quadratic).throttle(GRAVITY)
    assert throttle == pytest.approx(0.31)
    assert not cut


def test_shape_of_the_model():
    assert ThrottleModel(0.25, quadratic=0.0).throttle(2 * GRAVITY)[0] == pytest.approx(0.5)
    assert ThrottleModel(0.25, quadratic=1.0).throttle(4 * GRAVITY)[0] == pytest.approx(0.5)
    # 0.5·u² + 0.5·u is 0.15625 at 0.25 and 0.375 at 0.5.
    assert ThrottleModel(0.25, quadratic=0.5).throttle(GRAVITY * 0.375 / 0.15625)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("quadratic", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("voltage", [None, 14.0, 16.8])
def test_throttle_and_thrust_are_inverse(quadratic, voltage):
    model = ThrottleModel(0.3, quadratic, None if voltage is None else 16.0)
    for thrust in np.linspace(0.0, 20.0, 9):
        throttle, cut = model.throttle(float(thrust), voltage)
        assert cut or model.thrust(throttle, voltage) == pytest.approx(thrust)


def test_emptier_battery_takes_more_throttle():
    model = ThrottleModel(0.3, 1.0, reference_voltage=16.0)
    # Thrust grows with the square of throttle and of voltage.
    assert model.throttle(GRAVITY, 14.4)[0] == pytest.approx(0.3 * 16.0 / 14.4)


def test_too_much_thrust_is_cut_and_said():
    assert ThrottleModel(0.5, 1.0, max_throttle=0.9).throttle(4 * GRAVITY) == (0.9, True)


@pytest.mark.parametrize("thrust", [-0.1, math.nan, math.inf])
def test_thrust_that_is_none_is_refused(thrust):
    with pytest.raises(OnboardFault, match="thrust") as caught:
        ThrottleModel(0.3).throttle(thrust)
    assert caught.value.fault is Fault.COMMAND


@pytest.mark.parametrize(("voltage", "words"), [(10.0, "62 %"), (25.0, "156 %"), (math.nan, "nan"), (None, "missing")])
def test_voltage_out_of_bounds_is_refused(voltage, words):
    with pytest.raises(OnboardFault, match=words):
        ThrottleModel(0.3, reference_voltage=16.0).throttle(GRAVITY, voltage)


def test_voltage_without_a_reference_is_refused():
    with pytest.raises(OnboardFault, match="reference_voltage"):
        ThrottleModel(0.3).throttle(GRAVITY, 16.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"hover_throttle": 0.0},
        {"hover_throttle": 1.0},
        {"quadratic": 1.1},
        {"quadratic": math.nan},
        {"reference_voltage": 0.0},
        {"lowest_voltage": 1.1},
        {"highest_voltage": 0.9},
        {"max_throttle": 0.2},
    ],
)
def test_senseless_models_are_refused(bad):
    with pytest.raises(OnboardFault, match=next(iter(bad))):
        ThrottleModel(**{"hover_throttle": 0.3, **bad})

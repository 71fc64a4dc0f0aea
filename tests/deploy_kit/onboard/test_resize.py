import numpy as np
import pytest

from deploy_kit.onboard import OnboardFault, OnboardPolicy
from deploy_kit.onboard.bundle import load_bundle
from deploy_kit.onboard.resize import DepthResize, Intrinsics


@pytest.fixture(scope="module")
def contract(bundles):
    return load_bundle(bundles.plain).contract


def wide(width=640, height=480, **changes):
    """A camera of 640 x 480 that sees somewhat more than the policy's."""
    return Intrinsics(
        **{"width": width, "height": height, "fx": 380.0, "fy": 380.0, "cx": 321.0, "cy": 239.0, **changes}
    )


def slopes(camera):
    """Return how far each pixel's ray goes right and down, (rows, columns) each."""
    x = (np.arange(camera["width"]) + 0.5 - camera["cx"]) / camera["fx"]
    y = (np.arange(camera["height"]) + 0.5 - camera["cy"]) / camera["fy"]
    return np.meshgrid(x, y)


def test_each_pixel_looks_along_the_same_ray(contract):
    camera = wide()
    x, y = slopes(vars(camera))
    wanted_x, wanted_y = slopes(contract.text["camera"])
    resize = DepthResize(contract, camera)
    # Half a pixel of the camera is the largest error that nearest pixels leave.
    assert np.abs(resize(x) - wanted_x).max() <= 0.5 / camera.fx + 1e-12
    assert np.abs(resize(y) - wanted_y).max() <= 0.5 / camera.fy + 1e-12


def test_the_contracts_own_camera_changes_nothing(contract):
    own = contract.text["camera"]
    camera = Intrinsics(*(own[name] for name in ("width", "height", "fx", "fy", "cx", "cy")))
    image = np.random.default_rng(0).uniform(0, 9, (72, 96)).astype(np.float32)
    resized = DepthResize(contract, camera)(image)
    np.testing.assert_array_equal(resized, image)
    assert resized.dtype == np.float32


def test_no_value_is_made_up_and_the_runner_takes_the_image(bundles, contract):
    image = np.where(np.indices((480, 640)).sum(axis=0) % 2 == 0, 2.0, np.inf)
    resized = DepthResize(contract, wide())(image)
    assert set(np.unique(resized)) <= {2.0, np.inf}
    assert OnboardPolicy(bundles.plain).step(np.array([0, 0, 0, 0, 0, 1.0, 3, 0, 0, 3, 0, 0]), resized)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fx": 760.0, "fy": 760.0}, "columns see -22.9° to 22.8°"),
        ({"cy": 20.0}, "rows see"),
        ({"fx": 0.0}, "no camera"),
        ({"cx": np.nan}, "no camera"),
        ({"fx": np.nan}, "no camera"),
        ({"fx": "380"}, "no camera"),
    ],
)
def test_cameras_that_do_not_fit_are_refused(contract, changes, words):
    with pytest.raises(OnboardFault, match=words):
        DepthResize(contract, wide(**changes))


def test_another_size_of_image_is_refused(contract):
    with pytest.raises(OnboardFault, match="expected \\(480, 640\\)"):
        DepthResize(contract, wide())(np.zeros((240, 320)))


def test_what_is_no_array_is_refused(contract):
    with pytest.raises(OnboardFault, match="image is list, give a numpy array"):
        DepthResize(contract, wide())([[1.0]])

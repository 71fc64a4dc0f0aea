"""An integrator's code is right, or the first term that differs is named, with its mistake."""

import sys

import numpy as np
import pytest

from deploy_kit.onboard import Fault, OnboardFault
from deploy_kit.onboard.__main__ import main
from deploy_kit.onboard.assembly import TERMS, assemble, check_assembly, load_function, physical_samples
from deploy_kit.onboard.bundle import load_bundle
from deploy_kit.onboard.frames import rotation_matrix


@pytest.fixture(scope="module")
def loaded(bundles):
    return load_bundle(bundles.plain)


def check(loaded, function):
    return check_assembly(loaded.contract, loaded.golden, function)


def test_samples_are_the_golden_ones_seen_from_the_world(loaded):
    """Back in the body they are what was recorded, whatever the heading."""
    samples = physical_samples(loaded.contract, loaded.golden)
    assert len(samples) == 4
    for sample, row in zip(samples, loaded.golden["observation"], strict=True):
        state, depth = assemble(sample)
        np.testing.assert_allclose(np.linalg.norm(sample["attitude"]), 1)
        np.testing.assert_allclose(state[:3], row[:3], atol=1e-5)
        np.testing.assert_allclose(state[3:6], row[3:6] / np.linalg.norm(row[3:6]), atol=1e-5)
        np.testing.assert_allclose(state[6:], row[6:12], atol=1e-4)
        np.testing.assert_allclose(np.minimum(depth, 10) / 10, row[16:].reshape(72, 96), atol=1e-6)
    headings = [np.arctan2(*rotation_matrix(sample["attitude"])[[1, 0], 0]) for sample in samples]
    assert np.ptp(headings) > 0.5


def test_right_code_passes(loaded):
    assert check(loaded, assemble) == 4
    assert check(loaded, lambda q: (assemble(q)[0].astype(np.float32), q["depth"].astype(np.float32))) == 4
    assert check(loaded, lambda q: (np.concatenate([assemble(q)[0], np.zeros(4)]), np.minimum(q["depth"], 10.0))) == 4


def with_state(change):
    def function(quantities):
        state, depth = assemble(quantities)
        return change(state, quantities), depth

    return function


def with_attitude(change):
    def function(quantities):
        return assemble({**quantities, "attitude": change(quantities["attitude"])})

    return function


def scaled(state, start, factor):
    state[start : start + 3] *= factor
    return state


MISTAKES = {
    "real last": (with_attitude(lambda q: np.roll(q, 1)), "base_lin_vel", "real part last"),
    "inverse": (with_attitude(lambda q: q * [1, -1, -1, -1]), "base_lin_vel", "the attitude is inverted"),
    "world velocity": (
        with_state(lambda s, q: np.concatenate([q["velocity"], s[3:]])),
        "base_lin_vel",
        "world axes in place of body axes",
    ),
    "frd": (with_state(lambda s, q: scaled(s, 0, [1, -1, -1])), "base_lin_vel", "forward-right-down in place of"),
    "sign": (with_state(lambda s, q: scaled(s, 6, [1, -1, 1])), "target_position", "y has the opposite sign"),
    "backwards": (with_state(lambda s, q: scaled(s, 6, -1)), "target_position", "x and y and z have the opposite sign"),
    "millimetres": (with_state(lambda s, q: scaled(s, 6, 1000)), "target_position", "millimetres in place of metres"),
    "order": (
        with_state(lambda s, q: np.concatenate([s[:6], s[9:12], s[6:9]])),
        "target_position",
        "the numbers of next_target_offset",
    ),
    "from the drone": (
        with_state(lambda s, q: np.concatenate([s[:9], s[6:9] + s[9:12]])),
        "next_target_offset",
        "from the drone in place of from the current gate",
    ),
    "nan": (with_state(lambda s, q: np.full(12, np.nan)), "base_lin_vel", "nan"),
    "size": (with_state(lambda s, q: s[:11]), "the state has shape (11,)", "(16,)"),
    "exit": (lambda q: sys.exit(0), "the function raised SystemExit", ""),
    "crash": (lambda q: 1 / 0, "the function raised ZeroDivisionError", ""),
    "depth mm": (lambda q: (assemble(q)[0], 1e3 * q["depth"]), "depth[", "millimetres in place of metres"),
    "depth normalised": (lambda q: (assemble(q)[0], q["depth"] / 10), "depth[", "it is normalised already"),
    "depth mirrored": (lambda q: (assemble(q)[0], q["depth"][:, ::-1]), "depth[", "mirrored left to right"),
    "depth upside down": (lambda q: (assemble(q)[0], q["depth"][::-1]), "depth[", "upside down"),
    "depth turned": (lambda q: (assemble(q)[0], q["depth"].T), "depth has shape (96, 72)", "exchanged"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named(loaded, name):
    function, term, cause = MISTAKES[name]
    with pytest.raises(OnboardFault) as caught:
        check(loaded, function)
    assert caught.value.fault is Fault.ASSEMBLY
    assert term in str(caught.value)
    assert cause in str(caught.value)


def test_no_return_as_zero_is_named(loaded):
    far = {**loaded.golden, "observation": loaded.golden["observation"].copy()}
    far["observation"][:, 100:200] = 1.0
    with pytest.raises(OnboardFault, match=r"where nothing returned it must be \+inf"):
        check_assembly(
            loaded.contract, far, lambda q: (assemble(q)[0], np.where(np.isinf(q["depth"]), 0.0, q["depth"]))
        )


def test_command_line(bundles, tmp_path, monkeypatch, capsys):
    source = "from deploy_kit.onboard.assembly import assemble\n"
    (tmp_path / "their_module.py").write_text(
        source + "def right(q):\n    return assemble(q)\n"
        "def wrong(q):\n    state, depth = assemble(q)\n    return -state, depth\n"
    )
    monkeypatch.chdir(tmp_path)
    common = [str(bundles.plain), "--steps", "100", "--allow-unverified", "--assemble"]
    try:
        assert main([*common, "their_module:right"], clock=iter(range(0, 10**9, 1000)).__next__) == 0
        assert "their_module:right: right on 4 samples" in capsys.readouterr().out
        assert main([*common, "their_module:wrong"]) == 1
        assert "refused, assembly: base_lin_vel of sample" in capsys.readouterr().err
    finally:
        sys.modules.pop("their_module", None)


@pytest.mark.parametrize("spec", ["nowhere:f", "math:nothing", "math", ":f"])
def test_what_is_no_function_is_refused(spec):
    with pytest.raises(OnboardFault, match=r"module:function|cannot be imported"):
        load_function(spec)


def test_terms_are_those_of_the_contract(loaded):
    quantities = [term["quantity"] for term in loaded.contract.text["observation"]["terms"]]
    assert [quantity for quantity in quantities if quantity in TERMS] == list(TERMS)


def with_command(change):
    def function(quantities):
        return (*assemble(quantities), change(quantities["output"]))

    return function


COMMANDS = {
    "as it is": (lambda action, fly, scale: action, "the graph's output as it is"),
    "no tanh": (lambda action, fly, scale: fly(0 * action) + action * scale, "the tanh is missing"),
    "no scale": (lambda action, fly, scale: np.tanh(action), "the scale is missing"),
    "no offset": (lambda action, fly, scale: np.tanh(action) * scale, "the offset is missing"),
    "thrust last": (lambda action, fly, scale: np.roll(fly(action), -1), "the thrust stands last"),
    "newtons": (lambda action, fly, scale: fly(action) * [0.68, 1, 1, 1], "the thrust is scaled by 0.68"),
    "throttle": (lambda action, fly, scale: fly(action) / [2 * scale[0], 1, 1, 1], "normalised by the largest one"),
    "g": (lambda action, fly, scale: fly(action) / [9.80665, 1, 1, 1], "in g in place of m/s²"),
    "frd": (lambda action, fly, scale: fly(action) * [1, 1, -1, -1], "body rates: y and z have the opposite sign: fo"),
    "degrees": (lambda action, fly, scale: np.degrees(fly(action)) * [np.pi / 180, 1, 1, 1], "degrees in place of"),
    "shape": (lambda action, fly, scale: fly(action)[:3], "the command has shape (3,)"),
    "no number": (lambda action, fly, scale: fly(action) * np.nan, "is nan, expected"),
    "a little off": (lambda action, fly, scale: np.add(fly(action), [0, 0, 0, 1e-2]), "body_rate_z of sample 0"),
}


def test_right_commands_pass(loaded):
    assert check(loaded, with_command(loaded.contract.command)) == 4


@pytest.mark.parametrize("mistake", COMMANDS)
def test_wrong_commands_are_named(loaded, mistake):
    change, words = COMMANDS[mistake]
    contract = loaded.contract
    with pytest.raises(OnboardFault) as raised:
        check(loaded, with_command(lambda action: change(action, contract.command, contract.scale)))
    assert raised.value.fault is Fault.ASSEMBLY
    assert words in str(raised.value)


def test_commands_for_some_samples_only_are_named(loaded):
    given = []

    def function(quantities):
        given.append(quantities)
        output = (*assemble(quantities), loaded.contract.command(quantities["output"]))
        return output if len(given) > 1 else output[:2]

    with pytest.raises(OnboardFault, match="a command came back for 3 of 4 samples"):
        check(loaded, function)


def test_transform_inside_the_graph_is_not_applied_again(bundles):
    ready = load_bundle(bundles.ready)
    assert check(ready, with_command(lambda command: command)) == 4
    with pytest.raises(OnboardFault, match="applied to what is a command already"):
        check(ready, with_command(lambda command: np.tanh(command) * ready.contract.scale + ready.contract.offset))

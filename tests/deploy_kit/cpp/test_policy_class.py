"""The header's class step by step beside the onboard runner: commands, faults, memory of commands and passages."""

import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.cpp.compiler import find_compiler
from deploy_kit.cpp.header import header_text
from deploy_kit.onboard import OnboardFault, OnboardOptions, OnboardPolicy
from deploy_kit.onboard.faults import Fault

SOURCE = Path(__file__).with_name("flight.cpp")


class Driver:
    """The class in a process."""

    def __init__(self, program, max_blind_s=0.5, zero=False, nan=False):
        words = [program, str(max_blind_s), f"{int(zero)}{int(nan)}"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._faults = re.findall(r"^  k(\w+)(?: = 0)?,", program.with_name("policy.hpp").read_text(), re.MULTILINE)
        assert self._read("<i") == (0,)

    def _read(self, form):
        return struct.unpack(form, self._process.stdout.read(struct.calcsize(form)))

    def _ask(self, data):
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _fault(self, number):
        name = self._faults[number]
        return "" if name == "None" else re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()

    def reset(self):
        self._ask(b"R")

    def hold(self, applied=None, now=np.nan):
        told = applied is not None
        self._ask(b"H" + struct.pack("<?5d", told, *(applied if told else (0.0,) * 4), now))
        return self._fault(*self._read("<i"))

    def step(self, state, depth, times=None, kind="d"):
        kind = "t" if times is not None else kind
        head = struct.pack("<i", len(state)) + np.asarray(state, np.float64).tobytes()
        tail = struct.pack("<3dc", *(times or (0.0,) * 3), kind.encode())
        self._ask(b"S" + head + np.asarray(depth, np.float32).tobytes() + tail)
        number, *values = self._read("<i5d2?")
        return self._fault(number), np.array(values[:4]), values[4], values[5], values[6]

    def close(self):
        self._process.kill()
        self._process.communicate()


def compiled(folder):
    """Build the driver around a folder's header; a warning is an error."""
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{folder}"]
    subprocess.run([find_compiler(), *flags, "-o", folder / "flight", SOURCE], check=True)


@pytest.fixture(scope="module")
def program(run, tmp_path_factory):
    """The driver, built around the header of the small policy."""
    folder, bundle = tmp_path_factory.mktemp("class"), open_bundle(run.bundle)
    (folder / "policy.hpp").write_text(header_text(run.network, bundle.contract, bundle.golden))
    compiled(folder)
    return folder / "flight"


@pytest.fixture
def driver_of():
    """Makes drivers, and ends them."""
    made = []

    def make(*args, **options):
        made.append(Driver(*args, **options))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


def answer(policy, state, depth, times=()):
    try:
        output = policy.step(np.asarray(state, np.float64), np.asarray(depth, np.float32), *times)
    except OnboardFault as fault:
        return fault.fault.value
    return output


def compare(driver, policy, state, depth, times=None, kind="d"):
    """Step both and compare; return the fault, "" for none."""
    fault, command, probability, passed, event = driver.step(state, depth, times, kind)
    wanted = answer(policy, state, depth, times or ())
    if isinstance(wanted, str):
        assert fault == wanted
        return fault
    assert fault == ""
    np.testing.assert_allclose(command, wanted.command, rtol=1e-5, atol=1e-4)
    assert probability == pytest.approx(wanted.gate_probability, abs=1e-5)
    assert (passed, event) == (wanted.gate_passed, wanted.gate_event)
    return ""


def sample(seed, shape=(24, 32)):
    rng = np.random.default_rng(seed)
    state = np.concatenate([rng.normal(size=3), [0.0, 0.0, 1.0], rng.normal(size=6)])
    return state, rng.uniform(0.2, 14.0, shape).astype(np.float32)


def test_a_flight_with_times_holds_and_resets(program, run, driver_of):
    driver, policy = driver_of(program), OnboardPolicy(run.bundle)
    now, faults = 0.0, []
    for step in range(200):
        state, depth = sample(step)
        # Early and late ones among them, and inputs that grow old.
        now += (0.03, 0.03, 0.01, 0.03, 0.07, 0.03)[step % 6]
        times = now, now - (0.01 if step % 13 else 0.07), now - (0.02 if step % 17 else 0.09)
        if step % 5 == 4:
            state = np.concatenate([state, [12.0, 1.0, -2.0, 3.0]])
        faults.append(compare(driver, policy, state, depth, times))
        if faults[-1]:
            applied = None if step % 2 else [9.0, 0.1, -0.2, 0.3]
            assert driver.hold(applied, now) == ""
            policy.hold(None if applied is None else np.array(applied), now)
        if step == 120:
            driver.reset()
            policy.reset()
    assert {"step_early", "step_late", "state_stale", "depth_stale", ""} <= set(faults)


def test_the_detector_fires_as_the_runner_does(program, run, driver_of):
    driver, policy = driver_of(program), OnboardPolicy(run.bundle)
    passed, fired = set(), 0
    for step in range(150):
        state, depth = sample(step)
        # Large states move the small policy's logit across its threshold and back.
        state[:3] = 14.0 * np.sin(0.35 * step + np.arange(3))
        wanted = policy.step(state, depth)
        _, _, _, ours, event = driver.step(state, depth)
        assert (ours, event) == (wanted.gate_passed, wanted.gate_event)
        passed.add(ours)
        fired += event
    assert passed == {True, False}
    assert fired >= 2


INF, NAN = np.inf, np.nan
SPOILT = {
    "state_not_finite": ("state", 2, NAN),
    "state_out_of_range": ("state", 0, 17.0),
    "depth_not_a_number": ("depth", (5, 5), NAN),
    "depth_out_of_range": ("depth", (0, 1), -0.5),
    "depth_unit": ("depth", slice(None), 2500.0),
}


@pytest.mark.parametrize("options", [{}, {"zero": True}, {"nan": True}, {"zero": True, "nan": True}], ids=str)
def test_faults_have_the_runners_names(program, run, driver_of, options):
    driver = driver_of(program, **options)
    named = {f"{name}_is_no_return": True for name in options}
    policy = OnboardPolicy(run.bundle, OnboardOptions(**named))
    met = set()
    for seed, (part, place, value) in enumerate(SPOILT.values()):
        state, depth = sample(seed)
        (state if part == "state" else depth)[place] = value
        met.add(compare(driver, policy, state, depth))
        met.add(compare(driver, policy, *sample(seed), kind="f" if seed == 0 else "d"))
    zeros = sample(1)[1]
    for image in (zeros * 0, np.full_like(zeros, NAN), np.where(zeros > 5, 0, zeros), np.where(zeros > 5, NAN, zeros)):
        met.add(compare(driver, policy, sample(1)[0], image))
    both = np.where(zeros > 5, NAN, zeros)
    both[0, 0] = -1.0
    met.add(compare(driver, policy, sample(1)[0], both))
    assert driver.step(np.zeros(11), zeros)[0] == "state_shape"
    assert driver.hold([NAN, 0.0, 0.0, 0.0]) == "command"
    assert {"", *SPOILT} - met <= ({"depth_not_a_number"} if "nan" in options else set())


def test_blindness_and_clocks(program, run, driver_of):
    driver, policy = driver_of(program, 0.1), OnboardPolicy(run.bundle, OnboardOptions(max_blind_s=0.1))
    state, depth = sample(0)
    dark = np.full_like(depth, INF)
    images = [dark, dark, dark, depth, dark, dark, dark, dark, dark]
    assert [compare(driver, policy, state, image) for image in images] == [""] * 7 + ["depth_blind"] * 2
    driver.reset()
    policy.reset()
    times = [(1.0, 0.99, 0.98), (1.03, 1.04, 1.0), (1.03, 0.98, 1.0), (1.03, 1.02, NAN), (1.03, 1.02, 1.0)]
    assert [compare(driver, policy, state, depth, item) for item in times] == ["", "clock", "clock", "clock", ""]


def test_every_fault_of_the_header_is_one_of_the_runners(program):
    text = program.with_name("policy.hpp").read_text()
    body = text[text.index("enum class Fault : int {") :]
    names = re.findall(r"^  k(\w+)", body[: body.index("};")], re.MULTILINE)[1:]
    ours = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names}
    assert ours <= {fault.value for fault in Fault}


def test_a_policy_without_gate_and_with_scales_flies_too(run, driver_of, tmp_path):
    bundle = open_bundle(run.bundle)
    first, *others = bundle.contract.observation.terms
    assert first.name == "base_lin_vel"
    terms = (replace(first, scale=(0.5,) * 3, clip=(-2.0, 2.0)), *others)
    contract = replace(bundle.contract, observation=replace(bundle.contract.observation, terms=terms), gate=None)
    (tmp_path / "policy.hpp").write_text(header_text(run.network, contract, bundle.golden))
    compiled(tmp_path)
    driver = driver_of(tmp_path / "flight")
    state, depth = sample(0)
    scaled = state.copy()
    state[:3], scaled[:3] = (1.0, 3.0, -9.0), (0.5, 1.0, -1.0)
    _, command, probability, passed, event = driver.step(state, depth)
    np.testing.assert_allclose(command, OnboardPolicy(run.bundle).step(scaled, depth).command, rtol=1e-5, atol=1e-4)
    assert (probability, passed, event) == (0.0, False, False)

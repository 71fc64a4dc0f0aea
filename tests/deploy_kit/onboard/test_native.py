"""The C++ engine: the same commands, faults, events and log as with onnxruntime, built once, safely."""

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deploy_kit.bundle.reader import CPP_NAME
from deploy_kit.cpp.compiler import find_compiler
from deploy_kit.files import file_sha256
from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy, builder
from deploy_kit.onboard.__main__ import main
from deploy_kit.onboard.detector import DetectorRule, GateDetector, Slope
from helpers.bundles import copy_bundle, rewrite_manifest
from helpers.flight_inputs import FAULTS, sample
from helpers.reports import REPORT, write_report


def both(native, kind="plain", log=None, **options):
    """The two engines on one bundle."""
    bundle, shared = getattr(native, kind), {"allow_unverified": True, **options}
    return (
        OnboardPolicy(bundle, OnboardOptions(**native.options, **options), log=log),
        OnboardPolicy(bundle, OnboardOptions(**shared)),
    )


def same(ours, theirs):
    np.testing.assert_allclose(ours.command, theirs.command, rtol=1e-5, atol=1e-4)
    assert ours.gate_probability == pytest.approx(theirs.gate_probability, abs=1e-5)
    assert ours[2:] == theirs[2:]


@pytest.mark.parametrize("kind", ["plain", "ready"])
def test_a_flight_is_the_same_with_both_engines(native, kind):
    ours, theirs = both(native, kind)
    assert 0 < ours.self_check < 1
    assert ours.engine.startswith("C++, ")
    for step in range(40):
        state, depth = sample(step)
        form = (np.float32, np.float64, np.float16)[step % 3]
        if step % 7 == 3:
            # Strides, and a state that is whole.
            depth = np.asfortranarray(depth)
            state = np.concatenate([state, [12.0, 1.0, -2.0, 3.0]])
        now = 0.03 * step
        inputs = state.astype(form), depth.astype(form), now, now - 0.01, now - 0.02
        same(ours.step(*inputs), theirs.step(*inputs))
        if step % 11 == 5:
            ours.hold(now=now + 0.001)
            theirs.hold(now=now + 0.001)
        if step == 25:
            ours.reset()
            theirs.reset()


@pytest.mark.parametrize("options", [{}, {"zero_is_no_return": True}, {"nan_is_no_return": True}], ids=str)
def test_faults_are_the_same_with_both_engines(native, options):
    ours, theirs = both(native, **options)
    for name, spoil in FAULTS.items():
        answers = []
        for policy in (ours, theirs):
            try:
                answers.append(policy.step(*spoil(*sample(1))))
            except OnboardFault as fault:
                answers.append(str(fault))
        if isinstance(answers[0], str) or isinstance(answers[1], str):
            assert answers[0] == answers[1], name
        else:
            same(*answers)


def test_blindness_is_counted_by_both_alike(native):
    ours, theirs = both(native, max_blind_s=0.1)
    state, depth = sample(0)
    for image in (*[np.full_like(depth, np.inf)] * 3, depth, *[np.full_like(depth, np.inf)] * 3):
        same(ours.step(state, image), theirs.step(state, image))
    for policy in (ours, theirs):
        with pytest.raises(OnboardFault) as raised:
            policy.step(state, np.full_like(depth, np.inf))
        assert raised.value.fault is Fault.DEPTH_BLIND


def test_two_policies_in_one_process_do_not_share_buffers(native):
    first, second = (OnboardPolicy(native.plain, OnboardOptions(**native.options)) for _ in range(2))
    assert not np.shares_memory(first._graph.image, second._graph.image)


def test_the_log_says_what_flew(native, tmp_path):
    policy, _ = both(native, log=tmp_path / "flight.dklog")
    outputs = [policy.step(*sample(step)) for step in range(3)]
    policy.close()
    with open_flight_log(tmp_path / "flight.dklog") as log:
        assert log.header["engine"] == "cpp"
        assert log.header["providers"] == ["C++"]
        np.testing.assert_array_equal([step.command for step in log.steps], [output.command for output in outputs])
        assert log.inputs(log.steps[2]).network_image.max() > 0.5


def test_a_header_that_no_report_names_does_not_fly(native, bundles, tmp_path):
    bundle = copy_bundle(native.plain, tmp_path / "bundle")
    (bundle / "report.json").unlink(missing_ok=True)
    options = OnboardOptions(**native.options)
    for verdicts in (None, [], [{**item, "status": "not run"} for item in REPORT["verdicts"]]):
        if verdicts is not None:
            write_report(bundle, verdicts=verdicts)
        with pytest.raises(OnboardFault, match=r"no report says that policy\.hpp was verified") as raised:
            OnboardPolicy(bundle, options)
        assert raised.value.fault is Fault.NOT_VERIFIED
    with pytest.raises(OnboardFault, match=r"has no policy\.hpp: export it with --format cpp"):
        OnboardPolicy(bundles.plain, options)


def test_a_header_with_another_interface_does_not_fly(native, tmp_path):
    """Its functions have the same names and take other arguments; golden samples do not go through all of them."""
    changes = {
        "1": lambda text: text.replace("deploy_kit_interface", "other"),
        "3": lambda text: text.replace("return 2;", "return 3;"),
    }
    for version, change in changes.items():
        bundle = copy_bundle(native.plain, tmp_path / version)
        header = bundle / CPP_NAME
        header.write_text(change(header.read_text()))
        rewrite_manifest(bundle)
        write_report(bundle)
        with pytest.raises(OnboardFault, match=f"interface is version {version}, this runner calls version 2"):
            OnboardPolicy(bundle, OnboardOptions(**native.options))


def test_it_is_built_once_and_again_where_the_build_is_torn(native, monkeypatch):
    header = (native.plain / CPP_NAME).read_bytes()
    first = builder.built_library(header, native.cache)
    whole = first.read_bytes()
    monkeypatch.setattr(builder, "_build", lambda *_: pytest.fail("built again"))
    assert builder.built_library(header, native.cache) == first
    monkeypatch.undo()
    record = native.cache / f"{first.stem}.json"
    record.write_text("[" * 100_000)
    assert builder.built_library(header, native.cache) == first
    assert json.loads(record.read_text())["sha256"] == file_sha256(first)
    torn = native.cache / "torn"
    torn.mkdir(mode=0o700)
    for name in (first.name, f"{first.stem}.json"):
        (torn / name).write_bytes((native.cache / name).read_bytes())
    (torn / first.name).write_bytes(whole[: len(whole) // 2])
    assert len(builder.built_library(header, torn).read_bytes()) > len(whole) // 2


def test_a_folder_that_others_can_write_is_refused(native, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    os.chmod(folder, 0o777)
    with pytest.raises(OnboardFault, match="can be written by others"):
        OnboardPolicy(native.plain, OnboardOptions(engine="cpp", cpp_cache=str(folder)))


def test_a_folder_that_others_can_exchange_is_refused(native, tmp_path):
    above = tmp_path / "above"
    (above / "builds").mkdir(mode=0o700, parents=True)
    os.chmod(above, 0o777)
    options = OnboardOptions(engine="cpp", cpp_cache=str(above / "builds"))
    with pytest.raises(OnboardFault, match=r"above, above .*builds, can be written by everybody"):
        OnboardPolicy(native.plain, options)
    (tmp_path / "link").symlink_to(above / "builds")
    with pytest.raises(OnboardFault, match="can be written by others"):
        OnboardPolicy(native.plain, OnboardOptions(engine="cpp", cpp_cache=str(tmp_path / "link")))


def test_a_folder_below_another_users_is_refused(native, tmp_path, monkeypatch):
    (tmp_path / "theirs" / "builds").mkdir(mode=0o700, parents=True)
    stat = Path.stat

    def told(path, **options):
        found = stat(path, **options)
        return SimpleNamespace(st_mode=found.st_mode, st_uid=found.st_uid + 1) if path.name == "theirs" else found

    monkeypatch.setattr(Path, "stat", told)
    with pytest.raises(OnboardFault, match=r"theirs, above .*builds, is another user's, who could exchange what flies"):
        builder.built_library((native.plain / CPP_NAME).read_bytes(), tmp_path / "theirs" / "builds")


def test_a_folder_may_be_named_from_here_or_from_home(native, tmp_path, monkeypatch):
    header = (native.plain / CPP_NAME).read_bytes()
    built = builder.built_library(header, native.cache)
    for name in (built.name, f"{built.stem}.json"):
        (tmp_path / name).write_bytes((native.cache / name).read_bytes())
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setattr(builder, "_build", lambda *_: pytest.fail("built again"))
    for name in (".", f"~/{tmp_path.name}"):
        # A path without a folder would be looked for among the system's libraries.
        assert builder.built_library(header, Path(name)) == tmp_path / built.name
    assert OnboardPolicy(native.plain, OnboardOptions(engine="cpp", cpp_cache=".")).self_check < 1


def test_what_killed_builds_left_goes_with_the_next_one(native, tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    for name, age_s in ((".build.killed", 3600), (".build.running", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.hpp").touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(OnboardFault, match="false refuses"):
        builder.built_library(b"", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".build.running"]


def test_a_missing_compiler_is_said(native, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OnboardFault, match=r"no C\+\+ compiler was found \(no-such-compiler\)"):
        OnboardPolicy(native.plain, OnboardOptions(**native.options))


def test_options_of_the_engine_are_checked():
    with pytest.raises(OnboardFault, match="engine is 'tensorflow', not one of onnxruntime, onnxruntime-fp16"):
        OnboardOptions(engine="tensorflow")
    with pytest.raises(OnboardFault, match="cpp_cache is the name of a folder"):
        OnboardOptions(cpp_cache=3)


def test_the_command_takes_the_engine(native, capsys):
    assert main([str(native.plain), "--engine", "cpp", "--cpp-cache", str(native.cache), "--steps", "100"]) == 0
    assert "C++, threads: 1" in capsys.readouterr().out


DETECTING = """
#define private public
#include "policy.hpp"
#include <cstdio>
int main() {
  static deploy_kit_policy::Policy policy;
  double logit;
  while (std::scanf("%lf", &logit) == 1) {
    if (logit > 1e8) policy.reset();
    else if (logit < -1e8) policy.hold();
    else std::printf("%d\\n", policy.detect(logit) ? 1 : 0);
  }
}
"""


def test_the_header_announces_passages_as_the_runner_does(native, tmp_path):
    """Alone, without Python: the same steps, after resets and periods without a step too."""
    text = (native.sloped / CPP_NAME).read_text()
    (tmp_path / "policy.hpp").write_text(text)
    (tmp_path / "detect.cpp").write_text(DETECTING)
    command = [find_compiler(), "-std=c++17", "-O1", "-o", tmp_path / "detect", tmp_path / "detect.cpp"]
    subprocess.run(command, check=True, capture_output=True)
    rng = np.random.default_rng(0)
    logits = rng.normal(-1.2, 2.0, 400).round(3)
    logits[rng.choice(400, 12, replace=False)] = [1e9] * 6 + [-1e9] * 6
    detector = GateDetector(DetectorRule(-0.25, -2.25, 1, Slope(0.5, 3, 0.01, -0.25, -2.25, False)))
    expected = []
    for logit in logits.tolist():
        if logit > 1e8:
            detector.reset()
        elif logit < -1e8:
            detector.pass_step()
        else:
            expected.append(detector.step(logit))
    given = "\n".join(map(str, logits))
    run = subprocess.run([tmp_path / "detect"], input=given, capture_output=True, text=True, check=True)
    assert [line == "1" for line in run.stdout.split()] == expected
    assert 20 < sum(expected) < 200

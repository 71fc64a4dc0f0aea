"""The C++ header with every compiler that it is meant for; a missing one fails (as root, the script installs it)."""

import subprocess
from pathlib import Path

import pytest

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.cpp.header import header_text

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "test-cpp"


def toolchains(header):
    return subprocess.run([SCRIPT, header, "small"], capture_output=True, text=True, check=False)


def test_every_toolchain_builds_and_runs_the_header(run, tmp_path):
    bundle = open_bundle(run.bundle)
    header = tmp_path / "policy.hpp"
    header.write_text(header_text(run.network, bundle.contract, bundle.golden))
    done = toolchains(header)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Installing")]
    for begin, line in zip(
        (
            "g++ -m",
            "clang++ -m",
            "clang++ -ffast-math: refused",
            "clang++ -Ofast: refused",
            "clang++ -fno-honor-nans: the self-test fails",
            "aarch64-linux-gnu-g++ (NEON) under qemu: self-test passes",
            "arm-none-eabi-g++ (Cortex-M7): links; flash ",
            "arm-none-eabi-g++ (Cortex-M7) without the golden samples: links; flash ",
        ),
        lines,
        strict=True,
    ):
        assert line.startswith(begin)

    wrong = header.read_text().replace("float kActor0Bias[16] = {\n", "float kActor0Bias[16] = {\n 1.0f + ")
    header.write_text(wrong)
    done = toolchains(header)
    assert done.returncode == 1
    assert "self-test FAILS" in done.stderr


@pytest.mark.parametrize(("form", "lanes"), [("cpp-fp16", 4), ("cpp-fp16", 1), ("cpp-int8", 4)])
def test_narrow_weights_are_decoded_on_64_bit_arm(run, tmp_path, form, lanes):
    """By NEON's conversions, and with one lane by the compiler's own half type, as on microcontrollers."""
    subprocess.run([SCRIPT, "--tools"], capture_output=True, check=True)
    bundle = open_bundle(run.bundle)
    text = header_text(run.network, bundle.contract, bundle.golden, form)
    (tmp_path / "policy.hpp").write_text(text)
    (tmp_path / "test.cpp").write_text(
        '#include "policy.hpp"\nstatic deploy_kit_policy::Policy policy;\n'
        "int main() { return static_cast<int>(policy.self_test()); }\n"
    )
    build = ["aarch64-linux-gnu-g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-static"]
    subprocess.run([*build, f"-DDEPLOY_KIT_LANES={lanes}", "test.cpp", "-o", "test"], cwd=tmp_path, check=True)
    assert subprocess.run(["qemu-aarch64", "./test"], cwd=tmp_path, check=False).returncode == 0

"""Time and size the C++ headers of a bundle, in turns, for several instruction sets, and for a Cortex-M7.

What is built is run: give a bundle that you exported yourself. Sizes for the microcontroller need arm-none-eabi-g++.

    python benchmarks/cpp_weights.py BUNDLE [--paced 300]
"""

import argparse
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy_kit.bundle.reader import HEADERS, open_bundle
from deploy_kit.cpp.compiler import build_library, find_compiler
from deploy_kit.cpp.library import PolicyLibrary
from deploy_kit.timing import Plan, latency, measure, timer

BUILDS = {
    "AVX2, FMA, F16C": ("-mavx2", "-mfma", "-mf16c"),
    "AVX2, FMA": ("-mavx2", "-mfma"),
    "SSE2": (),
}
"""Flags by instruction set, on x86."""

MICROCONTROLLER = (
    *("arm-none-eabi-g++", "-std=c++17", "-O3", "-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-mthumb"),
    *("-fno-exceptions", "-fno-rtti", "-ffunction-sections", "-fdata-sections", "--specs=nosys.specs"),
    "-Wl,--gc-sections,-Ttext=0x08000000,-Tdata=0x20000000",
)

STEP = """
#include "policy.hpp"
static deploy_kit_policy::Policy policy;
float state[deploy_kit_policy::kStateSize], depth[deploy_kit_policy::kImageSize];
volatile float sent;
int main() {
  deploy_kit_policy::Output output;
  if (policy.step(state, deploy_kit_policy::kStateSize, depth, output) != deploy_kit_policy::Fault::kNone) return 1;
  sent = static_cast<float>(output.command[0]);
  return 0;
}
"""
"""One step; a state and an image lie beside it."""

TEST = """
#include "policy.hpp"
static deploy_kit_policy::Policy policy;
int main() { return static_cast<int>(policy.self_test()); }
"""


def show_sizes(texts: dict[str, str], folder: Path) -> None:
    """Print the size of each header, of its object's sections, and of programs for a Cortex-M7."""
    print(f"{'':10}{'header':>12}{'.rodata':>12}{'.text':>9}   Cortex-M7: step, flash and RAM; self-test, flash")
    (folder / "step.cpp").write_text(STEP)
    (folder / "test.cpp").write_text(TEST)
    for form, text in texts.items():
        (folder / "policy.hpp").write_text(text)
        compiler = find_compiler()
        assert compiler is not None
        whole = [compiler, "-std=c++17", "-O3", "-march=native", "-DDEPLOY_KIT_NO_SELF_TEST", "-c", "step.cpp"]
        subprocess.run([*whole, "-o", "step.o"], cwd=folder, check=True)
        sections = {"rodata": 0, "text": 0}
        listed = subprocess.run(["size", "-A", "step.o"], cwd=folder, check=True, capture_output=True, text=True)
        for line in listed.stdout.splitlines():
            words = line.split()
            kind = words[0].split(".")[1] if words and words[0].startswith(".") else ""
            if kind in sections:
                sections[kind] += int(words[1])
        flash = [f"{sum(_linked(folder, source, more)[:2])}" for source, more in _PROGRAMS]
        ram = sum(_linked(folder, *_PROGRAMS[0])[1:])
        print(f"{form:10}{len(text):12}{sections['rodata']:12}{sections['text']:9}   {flash[0]} and {ram}; {flash[1]}")


_PROGRAMS = (("step.cpp", ("-DDEPLOY_KIT_NO_SELF_TEST",)), ("test.cpp", ()))


def _linked(folder: Path, source: str, more: tuple[str, ...]) -> tuple[int, int, int]:
    """Return sizes of code with constants, of data, and of zeros of a program for the microcontroller."""
    if shutil.which(MICROCONTROLLER[0]) is None:
        raise SystemExit(f"{MICROCONTROLLER[0]} is missing: scripts/test-cpp --tools")
    # Its linker warns that the system calls do nothing.
    subprocess.run([*MICROCONTROLLER, *more, source, "-o", "m7.elf"], cwd=folder, check=True, capture_output=True)
    said = subprocess.run(["arm-none-eabi-size", "m7.elf"], cwd=folder, check=True, capture_output=True, text=True)
    text, data, zeros = map(int, said.stdout.splitlines()[-1].split()[:3])
    return text, data, zeros


def show_times(texts: dict[str, str], paced: int, folder: Path) -> None:
    """Print p50 of one network in each build, all of them by turns."""
    timers = {}
    for name, flags in BUILDS.items() if platform.machine() == "x86_64" else {"native": None}.items():
        for form, text in texts.items():
            target = folder / f"{name} {form}"
            target.mkdir()
            library = PolicyLibrary(build_library(text, target, flags))
            if not library.self_test():
                raise SystemExit(f"{name}, {form}: the self-test fails")
            timers[f"{name:18}{form}"] = timer(library.run)
    plans = {"back to back": Plan(80, 50), **({"each 30 ms": Plan(paced, period_s=0.03)} if paced else {})}
    found = {title: measure(timers, plan) for title, plan in plans.items()}
    print(f"{'p50 µs':28}{''.join(f'{title:>14}' for title in plans)}")
    for name in timers:
        print(f"{name:28}{''.join(f'{latency(found[title][name]).p50_us:14.1f}' for title in plans)}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--paced", type=int, default=200, help="steps of each build at one each 30 ms")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    texts = {form: bundle.read(file).decode() for form, file in HEADERS.items() if file in bundle.files}
    with tempfile.TemporaryDirectory() as name:
        show_sizes(texts, Path(name))
        show_times(texts, options.paced, Path(name))


if __name__ == "__main__":
    main()

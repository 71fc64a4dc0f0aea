"""Headers with narrow weights: what is stored, that it is decoded exactly, and that builds compute it."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

from deploy_kit.cpp.compiler import find_compiler
from deploy_kit.cpp.evaluation import StoredNetwork
from deploy_kit.cpp.header import header_text
from deploy_kit.cpp.literals import array_text
from deploy_kit.cpp.program import Dense, program_of
from deploy_kit.cpp.storage import FORMATS, Storage, stored_matrices
from deploy_kit.errors import OptionError
from helpers.cpp_headers import QUICK, build
from helpers.networks import make_network, make_observations, small_network

NARROW = ("cpp-fp16", "cpp-int8")


def with_matrix(program, change):
    """Change the weights of the matrix that is large in every network here."""
    steps = []
    for step in program.encoder:
        if isinstance(step, Dense):
            first, *others = step.products
            step = replace(step, products=(replace(first, weight=change(first.weight.copy())), *others))
        steps.append(step)
    return replace(program, encoder=tuple(steps))


@pytest.fixture(scope="module")
def program(run):
    return program_of(run.network, gate=True)


def test_only_large_matrices_are_narrow():
    matrices = stored_matrices(program_of(make_network(), gate=True), Storage.INT8)
    kinds = {name: matrix.values.dtype for name, matrix in matrices.items()}
    assert {name for name, kind in kinds.items() if kind == np.int8} == {"stem_linear"}
    assert {kinds[name] for name in ("state_enc", "actor_0", "actor_2", "actor_4", "aux_decoder")} == {
        np.dtype(np.float32)
    }


def first_row(*values):
    def change(weight):
        weight[0] = 0
        weight[0, : len(values)] = values
        return weight

    return change


@pytest.mark.parametrize(
    ("given", "stored", "scale"),
    [
        # Halves of a step go to the even number; the largest is 127 or -127.
        ((127.0, 0.5, 1.5, -2.5, -126.4), (127, 0, 2, -2, -126), 1.0),
        ((-254.0, 3.0, 1.0), (-127, 2, 0), 2.0),
        ((0.0,), (0, 0, 0), 1.0),
        # A scale that computers may flush to zero stores zeros.
        ((1e-37, -1e-37), (0, 0), 1.0),
    ],
)
def test_int8_is_rounded_to_the_nearest_step_of_its_output(program, given, stored, scale):
    matrix = stored_matrices(with_matrix(program, first_row(*given)), Storage.INT8)["stem_linear"]
    assert matrix.values[0, : len(stored)].tolist() == list(stored)
    assert matrix.scale[0] == scale
    np.testing.assert_array_equal(matrix.weight[0, : len(stored)], np.array(stored) * scale)


def test_float16_is_rounded_once_to_the_nearest(program):
    tie = 1 + 2.0**-11
    change = first_row(tie, np.nextafter(np.float32(tie), np.float32(2)), 65504.0, 2.0**-24, 2.0**-26)
    matrix = stored_matrices(with_matrix(program, change), Storage.FLOAT16)["stem_linear"]
    assert matrix.values[0, :5].tolist() == [1.0, 1 + 2.0**-10, 65504.0, 2.0**-24, 0.0]
    with pytest.raises(OptionError, match="cpp-fp16: stem_linear holds 70000, beyond float16"):
        stored_matrices(with_matrix(program, first_row(7e4)), Storage.FLOAT16)


@pytest.mark.parametrize("ordered", [False, True])
def test_the_evaluation_is_the_network(ordered):
    network = small_network(activation="selu")
    observation = make_observations(network, 70)
    found = StoredNetwork(program_of(network, gate=True), Storage.FLOAT32, ordered)(observation)
    with torch.inference_mode():
        expected = network.double()(torch.from_numpy(observation).double())
    for role in ("action", "gate_logit", "features"):
        np.testing.assert_allclose(found[role], getattr(expected, role), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def texts(run, shared_bundle):
    return {form: header_text(run.network, shared_bundle.contract, shared_bundle.golden, form) for form in FORMATS}


BUILDS = [("cpp-fp16", 1), ("cpp-int8", 4), ("cpp-int8", 1)]
"""Forms and lanes; `verify` builds for this machine's vectors."""


@pytest.mark.parametrize(("form", "lanes"), BUILDS)
def test_a_build_gives_what_its_weights_give(run, program, texts, tmp_path, form, lanes):
    observation = make_observations(run.network, 40)
    exact = StoredNetwork(program, FORMATS[form])(observation)
    plain = StoredNetwork(program, Storage.FLOAT32)(observation)
    library = build(texts[form], tmp_path, (*QUICK, f"-DDEPLOY_KIT_LANES={lanes}"))
    assert library.self_test()
    found = library.rows(observation)
    for role, values in exact.items():
        np.testing.assert_allclose(found[role], values, rtol=2e-6, atol=2e-6)
    # So the weights are narrow indeed.
    assert np.abs(exact["features"] - plain["features"]).max() > 1e-5


def test_the_text_is_the_same_each_time(run, shared_bundle, texts):
    for form in NARROW:
        assert header_text(run.network, shared_bundle.contract, shared_bundle.golden, form) == texts[form]


DECODING = """
#include "policy.hpp"
#include <cstdio>
alignas(64) static const std::uint16_t halves[] = {
@HALVES@};
int main() {
  using namespace deploy_kit_policy;
#if defined(__SSE2__)
  _mm_setcsr(_mm_getcsr() | 0x8040);  // subnormal numbers are zeros
#endif
  for (unsigned i = 0; i < sizeof(halves) / 2; i += kernels::kLanes) {
    float values[kernels::kLanes];
    kernels::store(values, kernels::load(halves + i));
    std::fwrite(values, 4, kernels::kLanes, stdout);
  }
}
"""


def test_every_half_is_decoded_exactly(texts, tmp_path):
    """By the machine and by hand, also where the machine flushes subnormal numbers."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    (tmp_path / "policy.hpp").write_text(texts["cpp-fp16"])
    (tmp_path / "decode.cpp").write_text(DECODING.replace("@HALVES@", array_text(halves)))
    for flags in (["-march=native"], ["-DDEPLOY_KIT_DECODE_BY_HAND"]):
        command = [find_compiler(), "-std=c++17", "-O1", *flags, "-o", tmp_path / "decode", tmp_path / "decode.cpp"]
        subprocess.run(command, check=True)
        found = np.frombuffer(subprocess.run([tmp_path / "decode"], capture_output=True, check=True).stdout, np.uint32)
        np.testing.assert_array_equal(found, halves.astype(np.float32).view(np.uint32), err_msg=str(flags))

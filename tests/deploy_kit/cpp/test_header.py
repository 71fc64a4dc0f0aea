"""Networks of many shapes as C++, against themselves in PyTorch."""

import subprocess

import numpy as np
import pytest
import torch

from deploy_kit.cpp.compiler import CompilerError, build_library, find_compiler
from deploy_kit.policy.network import ACTIVATIONS, ConvSpec
from deploy_kit.task.interface import ObservationLayout
from helpers.cpp_headers import QUICK, build, header_of
from helpers.networks import make_network, make_observations, small_network

SHAPES = {
    "as-small": {},
    "bands-share-rows": {"stem": (ConvSpec(5, 3, 2), ConvSpec(18, 3, 1))},
    "one-convolution": {"stem": (ConvSpec(6, 5, 4),)},
    "gaps": {"stem": (ConvSpec(4, 2, 3), ConvSpec(8, 2, 2), ConvSpec(24, 1, 2))},
    "odd-widths": {"feature_size": 75, "actor_hidden": (101,), "layout": ObservationLayout(16, (19, 33))},
    "bare": {"gate_head": False, "normalizer_eps": None, "actor_hidden": ()},
}


def largest_share(library, network, rows=40):
    """The largest difference as a share of 1e-5, absolute and relative."""
    observation = make_observations(network, rows)
    with torch.inference_mode():
        expected = network(torch.from_numpy(observation))
    found = library.rows(observation)
    wanted = {"action": expected.action, "features": expected.features}
    if network.config.gate_head:
        wanted["gate_logit"] = expected.gate_logit
    shares = []
    for role, values in wanted.items():
        assert found[role].shape == values.shape
        shares.append(np.abs(found[role] - values.numpy()) / (1e-5 * (1 + np.abs(values.numpy()))))
    return max(float(share.max()) for share in shares)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_give_what_pytorch_gives(shared_bundle, tmp_path, shape):
    network = small_network(**SHAPES[shape])
    library = build(header_of(network, shared_bundle.contract), tmp_path)
    assert library.self_test()
    assert library.gate == network.config.gate_head
    assert largest_share(library, network) < 1


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"lrelu"}))
def test_activations_give_what_pytorch_gives(shared_bundle, tmp_path, activation):
    shape = {"layout": ObservationLayout(16, (9, 12)), "stem": (ConvSpec(4, 3, 3),), "feature_size": 8}
    network = small_network(activation=activation, actor_hidden=(9,), **shape)
    library = build(header_of(network, shared_bundle.contract), tmp_path)
    assert largest_share(library, network) < 1


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_every_width_of_vectors_gives_the_same(shared_bundle, tmp_path, lanes):
    network = small_network(**SHAPES["odd-widths"])
    library = build(header_of(network, shared_bundle.contract), tmp_path, [*QUICK, f"-DDEPLOY_KIT_LANES={lanes}"])
    assert library.self_test()
    assert largest_share(library, network) < 1


def test_the_reference_size_gives_what_pytorch_gives(shared_bundle, tmp_path):
    network = make_network()
    library = build(header_of(network, shared_bundle.contract), tmp_path)
    assert library.self_test()
    assert largest_share(library, network, rows=200) < 1


def test_heads_alone_and_commands_are_the_whole_networks(run, shared_bundle, tmp_path):
    library = build(header_of(run.network, shared_bundle.contract), tmp_path)
    whole = library.rows(make_observations(run.network, 20))
    heads = library.heads(whole["features"])
    np.testing.assert_array_equal(heads["action"], whole["action"])
    np.testing.assert_array_equal(heads["gate_logit"], whole["gate_logit"])
    action = shared_bundle.contract.action
    command = np.tanh(whole["action"].astype(np.float64)) * action.scale + action.offset
    np.testing.assert_allclose(whole["command"], command, rtol=1e-14)


def test_the_text_does_not_depend_on_when_it_is_written(run, shared_bundle):
    assert header_of(run.network, shared_bundle.contract) == header_of(run.network, shared_bundle.contract)


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-ffinite-math-only", "-std=c++14"])
def test_flags_that_change_the_meaning_do_not_compile(run, shared_bundle, tmp_path, flag):
    with pytest.raises(CompilerError, match=r"refuses the header: .*policy\.hpp: "):
        build_library(header_of(run.network, shared_bundle.contract), tmp_path, (flag,))


def test_two_policies_in_one_file_do_not_compile(shared_bundle, tmp_path):
    """The second one would be passed over, and the first fly in its place."""
    for name, seed in (("one", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        text = header_of(small_network(seed, **SHAPES["bare"]), shared_bundle.contract)
        (tmp_path / name / "policy.hpp").write_text(text)
    for second in ("one", "other"):
        source = f'#include "one/policy.hpp"\n#include "{second}/policy.hpp"\n'
        command = [str(find_compiler()), "-std=c++17", "-fsyntax-only", "-xc++", f"-I{tmp_path}", "-"]
        done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
        assert (done.returncode == 0) == (second == "one")
        assert ("policy.hpp: another policy is included in this file already" in done.stderr) == (second == "other")


def test_nothing_of_a_contract_ends_a_comment(run, shared_bundle, tmp_path):
    contract = shared_bundle.contract
    hostile = 'x\n#error "inside"\\\n*/ #error'
    terms = tuple(type(term)(**{**vars(term), "name": hostile, "description": hostile}) for term in
                  contract.observation.terms)  # fmt: skip
    observation = type(contract.observation)(**{**vars(contract.observation), "terms": terms})
    text = header_of(run.network, type(contract)(**{**vars(contract), "observation": observation}))
    assert build(text, tmp_path).self_test()


def test_a_wrong_weight_fails_the_self_test(run, shared_bundle, tmp_path):
    text = header_of(run.network, shared_bundle.contract)
    name = "float kActor0Bias[16] = {\n"
    assert text.count(name) == 1
    assert not build(text.replace(name, f"{name} 1.0f + "), tmp_path).self_test()


def test_a_missing_compiler_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompilerError, match=r"no C\+\+ compiler was found \(no-such-compiler\); install one"):
        build_library("", tmp_path)

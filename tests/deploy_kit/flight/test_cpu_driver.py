import threading
from types import SimpleNamespace

import pytest
import torch

from deploy_kit.flight.cpu_driver import CHUNKS, SMALL_BATCH, CpuDriver, fast_driver
from helpers.networks import make_observations, small_network


@pytest.mark.parametrize("rows", [1, CHUNKS[0] + 3, SMALL_BATCH, SMALL_BATCH + 5])
def test_rows_come_back_in_order_and_bit_by_bit_whatever_the_threads(rows):
    network = small_network(2)
    observation = torch.from_numpy(make_observations(network, rows))
    outputs = []
    for threads in (1, 2, 5):
        driver = CpuDriver(network, threads)
        outputs.append(driver(observation))
        driver.close()
    with torch.inference_mode():
        torch.testing.assert_close(outputs[0].action, network(observation).action, rtol=1e-5, atol=1e-5)
    for output in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(output, outputs[0], strict=True))
    assert [len(part) for part in outputs[0]] == [rows] * 3


def test_a_policy_without_gate_head_has_no_logit():
    network = small_network(2, gate_head=False)
    driver = CpuDriver(network, 1)
    assert driver(torch.from_numpy(make_observations(network, 20))).gate_logit is None
    driver.close()


def test_threads_end_and_torchs_own_come_back():
    network, before = small_network(2), torch.get_num_threads()
    alive = threading.active_count()
    with fast_driver(SimpleNamespace(device="cpu"), network, 3) as driver:
        assert isinstance(driver, CpuDriver)
        driver(torch.from_numpy(make_observations(network, 50)))
        assert threading.active_count() > alive
    assert threading.active_count() == alive
    assert torch.get_num_threads() == before


def test_what_is_no_network_flies_as_it_is():
    def driver(observation):
        return observation

    with fast_driver(SimpleNamespace(device="cpu"), driver) as same:
        assert same is driver

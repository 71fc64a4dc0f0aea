import threading

import numpy as np
import pytest

from deploy_kit.onboard import Fault, OnboardFault, OnboardPolicy

STATE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0, 3.0, 0.0, 0.0])
DEPTH = np.full((72, 96), 5.0)


@pytest.mark.parametrize("now", [np.nan, np.inf, "1.0"])
def test_a_time_that_is_none_is_not_remembered(bundles, tmp_path, now):
    policy = OnboardPolicy(bundles.plain, log=tmp_path / "flight.dklog")
    for call in (lambda: policy.step(STATE, DEPTH, now), lambda: policy.hold(np.ones(4), now)):
        with pytest.raises(OnboardFault) as caught:
            call()
        assert caught.value.fault is Fault.CLOCK
    assert policy._acting[-1] == policy.contract.offset.tolist(), "nothing flew"
    policy.step(STATE, DEPTH, 1.0, 1.0, 1.0)
    policy.step(STATE, DEPTH, 1.03, 1.03, 1.03)
    policy.close()


def test_two_threads_never_get_each_others_command(bundles, monkeypatch):
    policy = OnboardPolicy(bundles.plain)
    run, faults = policy._graph.run, []

    def run_while_another_thread_calls():
        def call():
            with pytest.raises(OnboardFault) as caught:
                policy.step(STATE + 0.1, DEPTH)
            faults.append(caught.value.fault)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        run()

    wanted = OnboardPolicy(bundles.plain).step(STATE, DEPTH).command
    monkeypatch.setattr(policy._graph, "run", run_while_another_thread_calls)
    np.testing.assert_array_equal(policy.step(STATE, DEPTH).command, wanted)
    assert faults == [Fault.CONCURRENT]
    # A refused step lets go too.
    monkeypatch.undo()
    with pytest.raises(OnboardFault, match="state_type"):
        policy.step(None, DEPTH)
    policy.step(STATE, DEPTH)

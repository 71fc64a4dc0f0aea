import sys
import threading

import numpy as np
import pytest

from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy

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


def interrupted(call, place):
    """Call, and raise KeyboardInterrupt before the bytecode of the runner at a place; return whether there was one."""
    passed = 0

    def trace(frame, event, _):
        nonlocal passed
        if not frame.f_code.co_filename.endswith("runner.py"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            passed += 1
            if passed == place:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("what", ["step", "hold"])
def test_an_interrupt_anywhere_leaves_as_many_commands_waiting(bundles, what):
    """One fewer, and every command from then on would be taken to act a period too early."""
    policy = OnboardPolicy(bundles.plain)
    waiting = len(policy._acting)
    calls = {"step": lambda: policy.step(STATE, DEPTH), "hold": lambda: policy.hold(np.ones(4))}
    place = 0
    while interrupted(calls[what], place := place + 1):
        # Python tells of a signal after a call alone, but this is between any two bytecodes, also on the way out.
        policy._within.clear()
        assert len(policy._acting) == waiting, place
    assert place > 30


def test_an_interrupt_as_a_step_begins_refuses_no_later_step(bundles):
    policy = OnboardPolicy(bundles.plain)

    class Interrupted(set):
        def add(self, call):
            super().add(call)
            raise KeyboardInterrupt

    policy._within = within = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        policy.step(STATE, DEPTH)
    policy._within = set(within)
    policy.step(STATE, DEPTH)


@pytest.mark.parametrize("options", [{}, {"zero_is_no_return": True}], ids=["plain", "rare"])
@pytest.mark.parametrize("engine", ["onnxruntime", "cpp"])
def test_numbers_beyond_float32_are_judged_where_numpy_raises_at_them(native, engine, options):
    """Some drivers give the largest float64 where nothing returned."""
    chosen = {**native.options, "engine": engine}
    policy = OnboardPolicy(native.plain, OnboardOptions(**chosen, **options, allow_unverified=True))
    far, wrong = DEPTH.copy(), DEPTH.copy()
    far[0, 0], wrong[0, 0] = np.finfo(np.float64).max, -np.finfo(np.float64).max
    far[0, 1] = 1e-60
    with np.errstate(all="raise"):
        assert np.isfinite(policy.step(STATE, far).command).all()
        with pytest.raises(OnboardFault, match="depth_out_of_range"):
            policy.step(STATE, wrong)

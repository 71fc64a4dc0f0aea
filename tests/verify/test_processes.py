"""Several processes verify one bundle: what they measure adds up to what one would have measured."""

import contextlib
import dataclasses
import io
import threading

import numpy as np
import pytest
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_kit.bundle.parity import OutputSemantics, ParityComparison
from deploy_kit.errors import InputError, OptionError, TaskError
from deploy_kit.flight.episodes import FirstEpisodes
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint
from deploy_kit.ranks import Rank
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS, ActionTransform
from deploy_kit.verify import links, processes, verifier
from deploy_kit.verify.crew import LostProcessError, own_shares
from deploy_kit.verify.merging import merged_parity
from deploy_kit.verify.messages import pack, pack_figures, pack_part, unpack, unpack_figures, unpack_part
from deploy_kit.verify.report import Status
from deploy_kit.verify.share import FlownPart, ModeFlight, ShareFigures, share_of, share_seed
from deploy_kit.verify.verifier import verify_bundle
from helpers.cpp_headers import with_header
from helpers.small_flights import build_quickly

TOY = "helpers.toy_env:make"


def verified(run, tmp_path, **changes):
    """Return the live checks of a verification, and the report."""
    wanted = {
        "live": True,
        "episodes": 17,
        "max_episodes": 17,
        "task": TOY,
        "report": tmp_path / "report.json",
        "torchscript": False,
        "feature_file": None,
        "replay": False,
        "vehicle": False,
        "random_rows": 8,
        "search_evaluations": 8,
        **changes,
    }
    report = verify_bundle(run.verify(**wanted))
    return {check.name: check for check in report.checks if check.name.startswith("live/")}, report


# -- adding up ----------------------------------------------------------------------------------------------------

SEMANTICS = OutputSemantics(ACTION_NAMES, ACTION_UNITS, ActionTransform.from_limits(3.0, 6.0), 0.2)


def compared(blocks, names=""):
    comparison = ParityComparison("a", "b", ("action", "gate_logit"), SEMANTICS)
    for reference, candidate in blocks:
        command = SEMANTICS.transform.apply(reference["action"])
        comparison.add({**reference, "command": command}, candidate)
    return comparison.result(lambda row: f"{names}{row}")


def outputs(rng, rows, error, broken):
    # Few different sizes, so that several elements tie.
    action, logit = rng.integers(-4, 5, (rows, 4)) / 4, rng.integers(-4, 5, (rows, 1)) / 4
    reference = {"action": action.astype(np.float32), "gate_logit": logit.astype(np.float32)}
    moved = {name: (values + error * rng.integers(-3, 4, values.shape) / 4) for name, values in reference.items()}
    if broken:
        moved["action"][rng.integers(rows), 0] = np.nan
    return reference, {name: values.astype(np.float32) for name, values in moved.items()}


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    rows=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    error=st.sampled_from([0.0, 0.01, 0.6]),
    broken=st.booleans(),
)
def test_merged_figures_are_those_of_one_pass(seed, rows, error, broken):
    rng = np.random.default_rng(seed)
    blocks = [outputs(rng, count, error, broken and index == 1) for index, count in enumerate(rows)]
    whole = compared(blocks)
    first = np.cumsum([0, *rows])
    parts = [
        # Each share names its rows itself; here by their number in the whole.
        compared([block]) if start == 0 else _renamed(compared([block]), int(start))
        for block, start in zip(blocks, first, strict=False)
    ]
    merged = merged_parity(parts)
    assert merged.rows == whole.rows
    assert merged.commands == whole.commands
    assert merged.decisions == whole.decisions
    for found, expected in zip(merged.outputs, whole.outputs, strict=True):
        assert found.mean_error == pytest.approx(expected.mean_error, rel=1e-12)
        assert dataclasses.replace(found, mean_error=0.0) == dataclasses.replace(expected, mean_error=0.0)


def _renamed(check, start):
    """Give the rows of a block the names that they have in the whole."""

    def named(where):
        return None if where is None else str(int(where) + start)

    outputs_ = tuple(
        dataclasses.replace(
            output,
            nonfinite_where=named(output.nonfinite_where),
            frontier=tuple(dataclasses.replace(element, where=named(element.where)) for element in output.frontier),
        )
        for output in check.outputs
    )
    commands = tuple(dataclasses.replace(one, where=named(one.where)) for one in check.commands)
    decisions = dataclasses.replace(check.decisions, where=named(check.decisions.where))
    return dataclasses.replace(check, outputs=outputs_, commands=commands, decisions=decisions)


def test_first_problem_of_any_share_stays():
    good, bad = compared([outputs(np.random.default_rng(0), 3, 0.0, False)]), compared([])
    bad = dataclasses.replace(
        bad, outputs=tuple(dataclasses.replace(output, problem="it broke") for output in bad.outputs)
    )
    assert [output.problem for output in merged_parity([good, bad]).outputs] == ["it broke", "it broke"]


# -- shares -------------------------------------------------------------------------------------------------------


def test_every_share_has_seeds_of_its_own_and_all_episodes_are_flown():
    seeds = [share_seed(seed, part, share) for seed in (0, 5) for part in range(8) for share in range(16)]
    # Rollouts of the first share count on from the seed, as without shares.
    assert [share_seed(7, part, 0) for part in range(3)] == [7, 8, 9]
    others = [seed for seed in seeds if seed > 100]
    assert len(set(others)) == len(others) == 2 * 8 * 15
    for total, count in ((17, 4), (4, 4), (4096, 3)):
        shares = [share_of(total, index, count) for index in range(count)]
        assert sum(shares) == total
        assert max(shares) - min(shares) <= 1
    assert sorted(share for index in range(3) for share in own_shares(index, 3, 8)) == list(range(8))


def test_shares_in_one_process_fly_other_episodes_than_one_share_and_all_count(run, tmp_path):
    one, _ = verified(run, tmp_path, live_modes=("shadow", "driving"))
    three, report = verified(run, tmp_path, live_modes=("shadow", "driving"), shares=3)
    assert report.passed
    assert one["live/reference"].episodes == three["live/reference"].episodes == 17
    assert three["live/shadow"].rows == one["live/shadow"].rows == 17 * 20
    assert one["live/reference"].statistics != three["live/reference"].statistics
    worst = three["live/shadow"].outputs[0].frontier[-1]
    assert worst.where.startswith("share ")


def test_more_shares_or_processes_than_there_is_to_fly_are_refused(run, tmp_path):
    with pytest.raises(OptionError, match="--episodes 17: there are 20 shares"):
        verified(run, tmp_path, shares=20)
    with pytest.raises(OptionError, match="--shares 1: there are 2 processes"):
        processes.live_options(run.verify(live=True, shares=1), 2)


# -- messages -----------------------------------------------------------------------------------------------------


def test_what_is_sent_is_what_arrives():
    rng = np.random.default_rng(1)
    episodes = FirstEpisodes(3)
    episodes.gates[:], episodes.alive[:] = (4, 0, 2), False
    episodes.track_id = np.array([7, 8, 9])
    episodes._logits = [rng.normal(size=3).astype(np.float32), rng.normal(size=2).astype(np.float32)]
    episodes._labels, episodes._envs = [np.ones(3, bool), np.zeros(2, bool)], [np.arange(3), np.array([0, 2])]
    part = FlownPart(episodes, {"driving": ModeFlight(episodes, False)}, {"contract": "no"})
    arrived = unpack_part(*unpack(pack(*pack_part(part))))
    assert arrived.broken == part.broken
    assert not arrived.modes["driving"].paired
    for found in (arrived.reference, arrived.modes["driving"].episodes):
        assert found.statistics() == episodes.statistics()
        assert found.track_id.tolist() == [7, 8, 9]
    figures = ShareFigures(compared([outputs(rng, 5, 0.1, True)]), None, {"stale": 2}, 9)
    assert unpack_figures(unpack(pack(pack_figures(figures)))[0]) == figures


def test_nothing_that_could_run_is_read():
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, header=np.array([{"do": "fly"}], object))
    for message in (buffer.getvalue(), b"junk", b""):
        with pytest.raises(InputError, match="no message"):
            unpack(message)


# -- processes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def first_of_two(monkeypatch):
    """Let this process be the first of two that a launcher started, with a store between them."""
    store = dist.HashStore()
    monkeypatch.setattr(links, "_launchers_store", lambda: store)
    monkeypatch.setattr(processes, "launched_rank", lambda: Rank(0, 2, 0, 2))
    monkeypatch.setattr(processes, "with_device", lambda options, rank: options)


@contextlib.contextmanager
def other_rank(run, errors=None, **changes):
    """Be the other one in a thread."""
    wanted = {"live": True, "episodes": 17, "max_episodes": 17, "task": TOY, "shares": 3, **changes}
    options = run.verify(feature_file=None, replay=False, vehicle=False, **wanted)

    def work():
        try:
            processes.fly_for_the_first(options, Rank(1, 2, 1, 2))
        except TaskError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive(), "the other process ends when the first one does"


def test_two_ranks_of_a_launcher_give_the_verdict_of_one_process(run, tmp_path, first_of_two, monkeypatch):
    run = with_header(run, tmp_path)
    build_quickly(monkeypatch)
    with other_rank(run):
        together, report = verified(run, tmp_path, shares=3)
    assert report.passed
    assert together.pop("live/processes").problems == ()
    monkeypatch.undo()
    build_quickly(monkeypatch)
    alone, _ = verified(run, tmp_path, shares=3)
    assert together == alone
    # Nothing tells what the toy measures: the header's network flies without its memory.
    assert together["live/shadow@cpp"].rows == together["live/shadow"].rows
    assert together["live/shadow@cpp-steps"].switch == "--no-vehicle"
    assert together["live/driving@cpp"].paired


def test_what_one_process_cannot_use_is_an_error_that_names_it(run, tmp_path, first_of_two):
    errors = []
    task = "helpers.toy_env:make_refused_elsewhere"
    with other_rank(run, errors, task=task), pytest.raises(TaskError, match="process 1: the toy is broken here"):
        verified(run, tmp_path, task=task, shares=3)
    assert errors == ["the toy is broken here"]


def test_two_processes_on_the_embedded_simulator_give_the_verdict_of_one(racer, tmp_path):
    changes = {
        **{"task": "DiffLab-Quadcopter-CTBR-Racing-v0", "vehicle": True, "shares": 2, "max_episodes": 16},
        **{"env": EnvOptions(seed=3, stage=2, num_threads=1), "episodes": 16},
    }
    alone, first = verified(racer, tmp_path, **changes)
    together, second = verified(racer, tmp_path, num_processes=2, **changes)
    assert together.pop("live/processes").problems == ()
    assert alone["live/shadow"].rows > 16
    assert together == alone
    live = [v for v in second.verdicts if v.name.startswith("live/") and v.name != "live/processes"]
    assert live == [v for v in first.verdicts if v.name.startswith("live/")]


def test_a_process_that_dies_is_named_and_the_check_fails(run, tmp_path):
    checks, report = verified(run, tmp_path, task="helpers.toy_env:make_dying_elsewhere", num_processes=2)
    assert checks["live/processes"].problems == ("process 1 is gone: signal SIGKILL",)
    assert not report.passed
    assert report.verdict("live/driving").status is Status.NOT_RUN
    assert "live/reference" not in checks


class _Silent:
    """Another process of which nothing is heard, or that reads another bundle."""

    count = 2

    def __init__(self, message=None):
        self._message = message

    def send(self, index, message):
        """Say nothing."""

    def end(self):
        """End nothing."""

    def receive(self, index, patience_s):
        if self._message is None:
            raise LostProcessError(f"process {index} gave no sign for {patience_s:.0f} s")
        return self._message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (None, "process 1 gave no sign for 900 s"),
        (
            pack({"error": "RuntimeError: out of memory", "input": False}),
            "process 1 failed: RuntimeError: out of memory",
        ),
    ],
)
def test_silence_and_failures_of_others_fail_the_check(run, tmp_path, first_of_two, monkeypatch, message, words):
    monkeypatch.setattr(processes, "StoreProcesses", lambda rank: _Silent(message))
    checks, report = verified(run, tmp_path)
    assert checks["live/processes"].problems == (words,)
    assert not report.passed


def test_another_bundle_or_checkpoint_in_one_process_is_refused(run, tmp_path, first_of_two, monkeypatch):
    monkeypatch.setattr(processes, "StoreProcesses", lambda rank: _Silent(pack({"manifest": "x", "checkpoint": "y"})))
    with pytest.raises(InputError, match="process 1 reads another bundle"):
        verified(run, tmp_path)


def test_only_the_first_process_of_a_launcher_verifies(run, monkeypatch):
    monkeypatch.setattr(processes, "launched_rank", lambda: Rank(1, 2, 1, 2))
    with pytest.raises(OptionError, match="process 1 of 2 flies for the first one"):
        verify_bundle(run.verify())
    monkeypatch.setattr(processes, "launched_rank", lambda: Rank(0, 2, 0, 2))
    with pytest.raises(OptionError, match="leave out --num-processes"):
        verify_bundle(run.verify(live=True, num_processes=2))


def test_policies_of_other_classes_are_verified_in_one_process(run, tmp_path, first_of_two, monkeypatch):
    monkeypatch.setattr(processes, "StoreProcesses", lambda rank: _Silent())
    monkeypatch.setattr(verifier, "load_policy", lambda path, hints: object.__new__(PolicyCheckpoint))
    with pytest.raises(OptionError, match="are verified in one process"):
        verified(run, tmp_path)

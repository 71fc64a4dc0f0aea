"""Verify a policy that LEAPP exported against its checkpoint: description, structure, behaviour, flights."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import numpy as np

from deploy_kit.bundle.parity import ParityComparison
from deploy_kit.bundle.runners import FEATURE_TERMS, ArtifactError, OnnxRunner, import_onnxruntime
from deploy_kit.errors import OptionError
from deploy_kit.policy.checkpoint import Checkpoint, load_checkpoint
from deploy_kit.progress import Progress, silent
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint, NamedVehicle, find_vehicle, pair_bundle
from deploy_kit.verify.checks import counter
from deploy_kit.verify.dataset import Dataset, open_dataset
from deploy_kit.verify.flight_like import flight_like_samples, near_samples
from deploy_kit.verify.leapp.description import LeappExport, read_leapp
from deploy_kit.verify.leapp.subject import LeappBundle, identify
from deploy_kit.verify.live import LiveTest
from deploy_kit.verify.matrix import by_arithmetic, matrix_checks, of_the_graph, provider_check
from deploy_kit.verify.opening import guarded, require_truth_outside
from deploy_kit.verify.options import LIVE_MODES, ReplayOptions, VerifyOptions
from deploy_kit.verify.outputs.evidence import Evidence
from deploy_kit.verify.outputs.page_file import PageFile
from deploy_kit.verify.processes import live_options
from deploy_kit.verify.recording import environment_of, plain, verified_runtimes
from deploy_kit.verify.replay import reference_outputs, replay
from deploy_kit.verify.report import Check, FactCheck, NotRun, Subject, VerifyReport
from deploy_kit.verify.report_file import UNFINISHED, ReportFile
from deploy_kit.verify.samples import extreme_samples, random_samples
from deploy_kit.verify.search import search
from deploy_kit.verify.structure.onnx_file import file_checks, is_runnable, load_graph, signature_problems

LEAPP_REPORT_NAME = "report-leapp.json"
"""Where the report lies beside the description: a bundle that holds one keeps its own."""

NO_CONTRACT = "a LEAPP export has no contract to fly from"


def verify_leapp(options: VerifyOptions, progress: Callable[[Progress], None] = silent) -> VerifyReport:
    """Run all checks of a LEAPP export that need no bundle, and write the report.

    Args:
        options: `bundle` is the description; TorchScript and a flight's log have no meaning here.
        progress: told what is being done.

    Raises:
        OptionError: an option is out of range or has no effect, or the vehicle is not known.
        BundleError: the description or its model cannot be read, or is no policy of one ONNX model.
        CheckpointError: the checkpoint cannot be read.
        DatasetError: the feature file cannot be read, or was collected with another policy.
        TaskError: the task is unknown, or its environment does not fit the policy.
    """
    options.check()
    if options.flight is not None:
        raise OptionError("--flight has no effect on a LEAPP export: the onboard runner flies bundles")
    if options.num_processes != 1 or options.shares is not None:
        raise OptionError("--num-processes and --shares have no effect on a LEAPP export: one process flies it")
    if options.trust is not None:
        raise OptionError("--trust has no effect on a LEAPP export: bundles are signed")
    modes = tuple(mode for mode in options.live_modes if mode != "contract")
    options = dataclasses.replace(options, live_modes=modes, live=options.live and bool(modes))
    flown, options = live_options(options, 1) if options.live else None, options.with_seed()
    import_onnxruntime()
    started = time.monotonic()
    with ExitStack() as stack:
        export = read_leapp(options.bundle)
        path = options.report or export.path.with_name(LEAPP_REPORT_NAME)
        place, page = ReportFile(path, export.path.parent), PageFile(path)
        require_truth_outside(export.path.parent, options.checkpoint)
        checkpoint = load_checkpoint(options.checkpoint, options.hints)
        named = find_vehicle(checkpoint, options.task, options.vehicle_file)
        dataset = None
        if options.feature_file is not None:
            dataset = stack.enter_context(open_dataset(options.feature_file, checkpoint.network))
        live = None if flown is None else stack.enter_context(LiveTest(flown))
        if live is not None:
            live.prepare(checkpoint)

        def report(checks: list[Check], runner: OnnxRunner | None) -> VerifyReport:
            return VerifyReport(
                subject=_subject(options, export, checkpoint, dataset),
                environment=environment_of(options, () if runner is None else runner.providers),
                options=plain(dataclasses.asdict(options)),
                checks=tuple(checks),
                thresholds=options.thresholds,
                elapsed_s=time.monotonic() - started,
                created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                runtimes=verified_runtimes(options.runtimes, checks),
                replaces=place.replaced(export.sha256),
            )

        stack.enter_context(place)
        stack.enter_context(page)
        place.begin(report([UNFINISHED], None))
        judge = _Judge(export, checkpoint, named, options, progress)
        checks = [*judge.static(), *judge.behaviour(dataset, live)]
        found = report(checks, judge.runner)
        place.finish(found)
        page.finish(found, judge.evidence)
    return found


class _Judge:
    """Holds a LEAPP export against a checkpoint.

    Attributes:
        runner: the graph, None if it could not be opened.
        evidence: what the report's page shows.
    """

    def __init__(
        self,
        export: LeappExport,
        checkpoint: Checkpoint,
        named: NamedVehicle,
        options: VerifyOptions,
        progress: Callable[[Progress], None],
    ) -> None:
        self._export, self._checkpoint, self._named = export, checkpoint, named
        self._options, self._progress = options, progress
        self._subject: BundleAndCheckpoint | None = None
        self.runner: OnnxRunner | None = None
        self.evidence = Evidence()

    def static(self) -> Iterator[Check]:
        """Yield the checks that run nothing, and open the graph if it may be run."""
        export, runtime = self._export, self._options.runtimes[0]
        tensors = len(export.inputs) + len(export.outputs)
        yield FactCheck("leapp/description", "one stateless model, wired as described", tensors, export.problems)
        yield FactCheck("leapp/model", "md5 and sha256 of the model's file", 2, export.hash_problems)
        try:
            model = load_graph(export.model, export.model_path.name)
        except ArtifactError as error:
            yield FactCheck("onnx/read", "read as data", 1, (str(error),))
            return
        yield from file_checks(model)
        if self._named.vehicle is None or self._named.meaning is None:
            raise OptionError(f"{self._named.problem}; give --vehicle FILE or --task")
        found = identify(export, model, self._checkpoint, self._named.vehicle, self._named.meaning)
        described = "inputs and outputs of the graph against the description, in LEAPP's order"
        problems = tuple(signature_problems(model, found.contract, "the description"))
        yield FactCheck("onnx/signature", described, tensors, problems)
        described = "each operator and weight against the checkpoint, for all inputs"
        yield FactCheck("onnx/proof", described, found.proven.weights, found.proven.problems)
        bundle = LeappBundle(
            export.path.parent, {export.model_path.name: export.model_sha256}, found.contract, export.model
        )
        self._subject = pair_bundle(bundle, self._checkpoint, self._named)
        self.evidence = self._subject.evidence
        if not is_runnable(model) or problems:
            yield FactCheck("onnx/provider", "opened by onnxruntime", 1, ("not run: a check above says why",))
            return
        try:
            self.runner = OnnxRunner(export.model, found.contract, runtime=runtime)
        except ArtifactError as error:
            yield FactCheck("onnx/provider", f"loaded by onnxruntime, {runtime}", 1, (str(error),))
            return
        yield provider_check("onnx/provider", self.runner, found.contract)

    def behaviour(self, dataset: Dataset | None, live: LiveTest | None) -> Iterator[Check]:
        """Yield the checks that run the graph."""
        first = self._options.runtimes[0]
        if self.runner is None or self._subject is None:
            yield from (NotRun(name, "the graph was not opened: a check above says why") for name in ("replay", "live"))
            return
        stage = self._replayed_and_flown(self._subject, self.runner, dataset, live)
        for check in guarded("replay/run", "replay and flights, carried out", stage):
            yield by_arithmetic(check, first) if of_the_graph(check) else check

    def _replayed_and_flown(
        self, subject: BundleAndCheckpoint, runner: OnnxRunner, dataset: Dataset | None, live: LiveTest | None
    ) -> Iterator[Check]:
        options: ReplayOptions = self._options.replayed
        contract, seed, rows = subject.contract, options.seed, max(1, options.random_rows // 2)
        flying = flight_like_samples(contract, rows, seed)
        kept = None if dataset is None else dataset.kept_samples(options.max_observations)
        if kept is None:
            reason = "--no-replay: no feature file was given"
            switch: str | None = "--no-replay"
            if dataset is not None:
                reason = f"{dataset.path.name} holds no whole observations; collect with --keep-observations"
                switch = None if options.observations else "--no-observations"
            yield NotRun("replay/kept", reason, switch)
        recorded = flying if kept is None else kept.samples
        near = near_samples(recorded.observation, contract, rows, seed, recorded.described)
        drawn = [near, flying, random_samples(contract, options.random_rows, seed)]
        sets = [*([] if kept is None else [kept.samples]), *drawn, extreme_samples(contract, seed)]
        for samples in sets:
            reference = reference_outputs(subject.reference, samples.observation)
            name = f"replay/{samples.name}/onnx"
            comparison = ParityComparison(name, samples.described, subject.roles, subject.semantics)
            total = len(samples.observation) * (2 if samples.recorded else 1)
            advance = counter(self._progress, f"replay {samples.name}", total)
            check = replay(samples, reference, runner, comparison, advance)
            subject.evidence.add_replay(samples, reference, check)
            yield check
        yield from matrix_checks(subject, self._options.runtimes[1:], sets, self._progress)
        start = np.concatenate([samples.observation[: options.random_rows] for samples in (recorded, *drawn)])
        usual = float(reference_outputs(subject.reference, flying.observation)[FEATURE_TERMS].max())
        described = f"{options.search_evaluations} inputs of a search for the largest difference, seed {seed}"
        comparison = ParityComparison("replay/search/onnx", described, subject.roles, subject.semantics)
        advance = counter(self._progress, "search", options.search_evaluations)
        evaluations = options.search_evaluations
        truth = subject.reference
        yield search(start, contract, truth, runner, comparison, evaluations, seed, usual, advance).check
        if live is not None:
            yield from live.run(subject, runner, self._progress)
        for mode in LIVE_MODES:
            if mode == "contract":
                yield NotRun("live/contract", NO_CONTRACT, "LEAPP")
            elif live is None or mode not in live.modes:
                reason = "--no-live" if live is None else "not among the live modes asked for"
                yield NotRun(f"live/{mode}", reason, "--no-live" if live is None else "--live-mode")


def _subject(options: VerifyOptions, export: LeappExport, checkpoint: Checkpoint, dataset: Dataset | None) -> Subject:
    return Subject(
        bundle=str(options.bundle),
        manifest_sha256=export.sha256,
        files={export.path.name: export.sha256, export.model_path.name: export.model_sha256},
        checkpoint=str(options.checkpoint),
        checkpoint_sha256=checkpoint.sha256,
        dataset=None if dataset is None else str(dataset.path),
        dataset_sha256=None if dataset is None else dataset.sha256,
    )

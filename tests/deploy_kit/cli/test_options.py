"""Every command's options: one home for defaults, one name for a thing, nothing ignored in silence."""

import importlib
import json
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest

from deploy_kit.cli import main as entry
from deploy_kit.cli.collect import collect_command
from deploy_kit.cli.command import OTHER_OPTIONS, HeadedOption, spelling
from deploy_kit.cli.options import NETWORK_PARAMETERS
from deploy_kit.collection.options import CollectOptions
from deploy_kit.demo.run import DemoOptions
from deploy_kit.export.options import ExportOptions
from deploy_kit.finetuning.learners.attack import Norm
from deploy_kit.finetuning.options import NORMS, FinetuneOptions
from deploy_kit.flight.fly import FlyOptions
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.sim.options import EnvOptions
from deploy_kit.verify.options import VerifyOptions

OPTIONS = {
    "demo": DemoOptions,
    "collect": CollectOptions,
    "finetune": FinetuneOptions,
    "export": ExportOptions,
    "verify": VerifyOptions,
    "fly": FlyOptions,
}
RENAMED = {"threads": "num_threads"}
ELSEWHERE = {"checkpoint", "experiment_name", "load_run", "log_root", "headless", "require_complete"} | {
    "recheck",
    "profile",
    *("recover", "num_gpus", "dry_run", "log_all_ranks", "junit", "summary", "viewer_port"),
}
"""How a checkpoint is named is `CheckpointQuery`'s, without defaults; the others are the command line's own flags."""


def command(name: str) -> click.Command:
    return getattr(importlib.import_module(f"deploy_kit.cli.{name}"), f"{name}_command")


def options_of(name: str) -> dict[str, click.Option]:
    return {parameter.name: parameter for parameter in command(name).params if isinstance(parameter, click.Option)}


def defaults_of(*classes: type) -> dict[str, object]:
    """Return each field's default; where two classes have a field, the first one's."""
    found: dict[str, object] = {}
    for cls in classes:
        for field in fields(cls):
            if field.default is not MISSING:
                found.setdefault(field.name, field.default)
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults_are_those_of_the_dataclasses(name):
    cls = OPTIONS[name]
    defaults = defaults_of(cls, *([] if name in ("export", "finetune") else [EnvOptions]), NetworkHints)
    needed = {"verify": ["bundle"], "finetune": ["--feature-file", "x"]}
    parsed = command(name).make_context(name, needed.get(name, [])).params
    compared = 0
    for key in options_of(name):
        if key in ELSEWHERE or key == "feature_files" or (name, key) == ("verify", "seed"):
            continue  # verify draws a seed for its inputs unless one is given
        positive, field = key.removeprefix("no_"), RENAMED.get(key, key)
        if positive != key:
            assert parsed[key] is False, key
            assert defaults[positive] is True, key
        else:
            assert parsed[key] == defaults[field], key
        compared += 1
    assert compared >= 6


def test_a_path_to_the_working_folder_is_no_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parsed = [
        collect_command.make_context("collect", ["--feature-file", given]).params["feature_file"]
        for given in ("f.h5", "./f.h5", "a/f.h5")
    ]
    assert parsed == [Path("f.h5"), tmp_path / "f.h5", Path("a/f.h5")]


def test_norms_are_the_attacks():
    assert tuple(Norm) == NORMS


NAMED = ["demo", "collect", "finetune", "judge", "export", "verify", "bench", "fly", "inspect"]
"""Commands that name a policy."""


@pytest.mark.parametrize("name", NAMED)
def test_every_command_names_a_policy_as_isaac_lab_does(name):
    given = options_of(name)
    assert {"checkpoint", "experiment_name", "load_run", "log_root"} <= set(given)
    # Modules to import may register a task too, where the network needs none.
    assert {field.name for field in fields(NetworkHints)} == {*NETWORK_PARAMETERS, "extensions"} <= set(given)
    assert given["checkpoint"].opts == ["--checkpoint"]
    for option in given.values():
        assert [spelling(word.removeprefix("--")) for word in option.opts] == [option.opts[0].removeprefix("--")]


@pytest.mark.parametrize("name", NAMED)
def test_options_stand_under_headings_and_examples_follow(cli, name):
    for option in options_of(name).values():
        assert isinstance(option, HeadedOption), option.name
        assert option.heading != OTHER_OPTIONS, option.name
    shown = cli(name, "--help").stdout
    headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Policy:"
    assert headings[-1] == "Examples:"
    examples = shown[shown.index("Examples:") :].splitlines()[1:]
    assert len(examples) in (4, 6, 8, 10, 12)
    assert all(line.startswith(f"  deploy-kit {name}") for line in examples[1::2])


@pytest.mark.parametrize("name", NAMED)
def test_examples_can_be_parsed(name):
    import shlex

    for line in command(name).examples:
        _, called, *arguments = shlex.split(line)
        assert called == name
        command(name).make_context(name, arguments)


CHECKPOINT = ("--checkpoint", "demo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", *CHECKPOINT, "--gate-output", "probability"), "--gate-output has no effect without --use-aux"),
        (("export", *CHECKPOINT, "--log-root", "x"), "--log-root has no effect without --experiment_name or --load"),
        (("export", *CHECKPOINT, "--opset", "9"), "--opset 9: this version writes opsets 11 to 24"),
        (("export", *CHECKPOINT, "--input-names", "a"), "--input-names: 1 given (a), the graph has 2"),
        (("export", *CHECKPOINT, "--output-names", "a,b"), "--output-names: 2 given (a, b), the graph has 1"),
        (("export", *CHECKPOINT, "--input-names", "a,a"), "'a' is given twice"),
        (("collect", *CHECKPOINT, "--video-length", 9), "--video-length has no effect without --video"),
        (("collect", *CHECKPOINT, "--keep-collecting"), "--keep-collecting has no effect without --video"),
        (("collect", *CHECKPOINT, "--video", "--heldout-episodes", 9), "--heldout-episodes has no effect with --video"),
        (("collect", *CHECKPOINT, "--heldout-episodes", 0, "--keep-observations", 9), "--keep-observations has no eff"),
        (("collect", *CHECKPOINT, "--tracks", "circular", "--finish", "end"), "--finish has no effect without zigzag"),
        (("collect", *CHECKPOINT, "--neighbours"), "--neighbours has no effect without --levels"),
        (("collect", *CHECKPOINT, "--backend", "isaaclab", "--threads", 2), "--threads has no effect with --backend"),
        (
            ("collect", *CHECKPOINT, "--backend", "isaaclab", "--task", "T-v0", "--no-obstacles"),
            "--no-obstacles has no effect on a task other than DiffLab",
        ),
        (("verify", "b", *CHECKPOINT, "--no-replay", "--max-rows", 5), "--max-rows has no effect with --no-replay"),
        (("verify", "b", *CHECKPOINT, "--no-live", "--episodes", 5), "--episodes has no effect with --no-live"),
        (("verify", "b", *CHECKPOINT, "--no-live", "--stage", 1), "--stage has no effect with --no-live"),
        (("verify", "b", *CHECKPOINT, "--no-live", "--tracks", "zigzag"), "--tracks has no effect with --no-live"),
        (("fly", "demo", "--picture-env", 1), "--picture-env has no effect without --pictures"),
        (("fly", "demo", "--overwrite"), "--overwrite has no effect without --json, --pictures or --rerun"),
        (("fly", "demo", "--load-run", "x"), "--load-run has no effect with POLICY"),
        (("fly", "b/manifest.json", "--vehicle", "x"), "--vehicle has no effect on a bundle"),
        (("inspect", "demo", *CHECKPOINT), "--checkpoint has no effect with FILE"),
        (("finetune", *CHECKPOINT, "--h5", "x", "--pgd-steps", 0, "--alpha", 1), "--alpha has no effect with --pgd"),
        (("finetune", *CHECKPOINT, "--h5", "x", "--solver", "lbfgs", "--lr", 1), "--solver lbfgs has no use for --lr"),
        (
            ("finetune", *CHECKPOINT, "--h5", "x", "--solver", "lbfgs", "--epochs", 9),
            "lbfgs has no use for --epochs",
        ),
    ],
)
def test_what_would_be_ignored_is_refused_at_once(refused, monkeypatch, arguments, words):
    # Nothing has been read by then.
    monkeypatch.setattr("deploy_kit.policy.checkpoint.load_checkpoint", lambda *given: pytest.fail("too late"))
    refused(*arguments, words=(words, "leave it out") if "no effect" in words else (words,))


def test_the_stage_from_the_environment_is_no_option_given(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINING_STAGE", "1")
    refused("verify", tmp_path / "b", *CHECKPOINT, "--no-live", "--no-replay", words=(str(tmp_path / "b"),))


def test_a_policy_without_normaliser_takes_no_epsilon(refused, checkpoint):
    words = ("--normalizer-eps has no effect", "holds no observation normaliser")
    refused("inspect", checkpoint, "--normalizer-eps", 0.1, words=words)


def test_inspect_finds_the_latest_run_and_takes_network_options_for_networks_alone(cli, refused, checkpoint, vehicle):
    root = checkpoint.parent.parent
    named = cli("inspect", "--load_run", checkpoint.parent, "--json")
    assert json.loads(named.stdout)["path"] == str(checkpoint)
    named = cli("inspect", "--experiment_name", root.name, "--log-root", root.parent, "--load_run", "run", "--json")
    assert json.loads(named.stdout)["path"] == str(checkpoint)
    refused(
        "inspect",
        vehicle,
        "--activation",
        "elu",
        words=("--activation has no effect on what is no checkpoint (vehicle)",),
    )


def test_all_missing_parameters_are_named_at_once(refused, checkpoint, tmp_path):
    (checkpoint.parent / "params").rename(tmp_path / "kept")
    words = ("--activation", "--image-shape", "--vehicle FILE", "--params FOLDER")
    refused("export", "--checkpoint", checkpoint, words=words)


def test_params_that_lie_elsewhere(cli, checkpoint, vehicle_params, tmp_path):
    (checkpoint.parent / "params").rename(tmp_path / "kept")
    done = cli("export", "--checkpoint", checkpoint, "--params", tmp_path / "kept", "--output", tmp_path / "b")
    assert done.code == 0, done
    assert done.stdout.splitlines()[-1] == (
        f"Next: deploy-kit verify {tmp_path / 'b'} --checkpoint {checkpoint} --no-replay --params {tmp_path / 'kept'}"
    )


def test_a_checkout_without_links_is_told_so(tmp_path):
    package = tmp_path / "deploy_kit"
    (package / "export").mkdir(parents=True)
    (package / "verify").write_text("../verify")
    problem = entry.links_problem(package)
    assert problem.startswith(f"{package / 'verify'} should be symbolic links")
    assert "git clone -c core.symlinks=true" in problem
    assert "\n" not in problem
    (package / "verify").unlink()
    (package / "verify").mkdir()
    assert entry.links_problem(package) is None


def test_nothing_runs_in_a_checkout_without_links(cli, monkeypatch):
    monkeypatch.setattr(entry, "links_problem", lambda package: "links are missing")
    told = cli("inspect", "demo")
    assert (told.code, told.stderr) == (2, "Error: links are missing\n")

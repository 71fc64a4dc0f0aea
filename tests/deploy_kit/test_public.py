"""The public surface: its names, that they load nothing before they are used, and that the lines of the docs run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deploy_kit

ROOT = Path(deploy_kit.__file__).resolve().parents[1]

NAMES = {
    "BenchOptions",
    "BenchReport",
    "Bundle",
    "CheckFailedError",
    "Checkpoint",
    "CollectOptions",
    "CollectResult",
    "DemoOptions",
    "DemoResult",
    "DeployKitError",
    "EnvOptions",
    "ExportOptions",
    "FeatureFile",
    "FinetuneOptions",
    "FinetuneResult",
    "FlyOptions",
    "FlyResult",
    "InputError",
    "NetworkHints",
    "PolicyCheckpoint",
    "Thresholds",
    "VerifyOptions",
    "VerifyReport",
    "__version__",
    "bench_bundle",
    "collect",
    "export_bundle",
    "finetune",
    "fly",
    "load_checkpoint",
    "load_policy",
    "make_env",
    "open_bundle",
    "open_feature_file",
    "run_demo",
    "save_checkpoint",
    "save_policy",
    "verify_bundle",
}


def test_public_names():
    assert set(deploy_kit.__all__) == NAMES
    assert set(deploy_kit.__all__) <= set(dir(deploy_kit))


def test_every_name_is_there_and_typed():
    stub = ast.parse((ROOT / "deploy_kit" / "__init__.pyi").read_text(encoding="utf-8"))
    typed = {
        alias.asname: f"{node.module}" for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {*typed, "__version__"} == NAMES
    for name, module in typed.items():
        assert getattr(deploy_kit, name) is getattr(sys.modules[module], name)


def test_importing_the_package_loads_nothing_but_the_standard_library():
    code = "import sys; before = set(sys.modules); import deploy_kit; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in run.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert loaded == {"deploy_kit"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'colect'"):
        deploy_kit.colect  # noqa: B018  # looking it up is the subject


def test_functions_are_not_shadowed_by_rooms():
    import deploy_kit.collection.run
    import deploy_kit.finetuning.run  # imports after which a room of the same name would win

    assert callable(deploy_kit.collect)
    assert callable(deploy_kit.finetune)


def chain(page: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.split("```python\n")[1].split("```")[0]


def test_readme_and_docs_show_the_same_lines():
    assert chain("README.md") == chain("docs/python.md")


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_the_lines_of_the_docs_run(tmp_path, shipped_policy, monkeypatch):
    """The lines as they stand, in small sizes, on the shipped policy."""
    from dataclasses import replace

    code = chain("docs/python.md").replace('Path("model.pt")', "POLICY").replace("2000", "20")
    monkeypatch.chdir(tmp_path)
    small = {
        "CollectOptions": lambda *args, **kwargs: replace(
            deploy_kit.CollectOptions(*args, **kwargs),
            env=deploy_kit.EnvOptions(num_envs=6),
            heldout_episodes=6,
            keep_observations=8,
        ),
        "VerifyOptions": lambda *args, **kwargs: replace(
            deploy_kit.VerifyOptions(*args, **kwargs),
            episodes=2,
            random_rows=8,
            task=deploy_kit.VerifyOptions.task,
            thresholds=replace(deploy_kit.Thresholds(), min_episodes=2),
        ),
    }
    lines = [line for line in code.splitlines() if "import CollectOptions" not in line]
    scope = {name: getattr(deploy_kit, name) for name in ("EnvOptions", "ExportOptions", "FinetuneOptions")}
    scope |= {**small, "POLICY": shipped_policy}
    source = "\n".join(lines).replace("assert verify_bundle", "report = verify_bundle").replace(").passed", ")")
    exec(source, scope)  # noqa: S102  # the lines of the docs are the subject
    # Two episodes are too few to compare flights.
    assert [
        check.name for check in scope["report"].verdicts if check.status == "failed" and "live/" not in check.name
    ] == []
    assert (tmp_path / "bundle" / "policy.onnx").is_file()

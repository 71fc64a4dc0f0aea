import subprocess
import sys
from importlib.metadata import version

import pytest

COMMANDS = ["demo", "collect", "finetune", "judge", "export", "verify", "bench", "fly", "log", "inspect"]

ORIGIN_FLAGS = {
    "collect": [
        "--task",
        "--num_envs",
        "--video",
        "--video_length",
        "--experiment_name",
        "--load_run",
        "--checkpoint",
        "--dataset",
        "--headless",
        "--device",
        "--seed",
    ],
    "finetune": ["--h5_path", "--policy_path", "--save_path", "--epochs", "--batch_size", "--lr"],
}


def test_help_lists_the_commands_in_the_order_of_the_work(cli):
    result = cli("--help")
    assert result.code == 0
    listed = result.stdout[result.stdout.index("Commands, in the order of the work:") :]
    positions = [listed.index(f"\n  {name} ") for name in COMMANDS]
    assert positions == sorted(positions)
    assert "Exit codes:\n  0 done; 1 a check failed; 2 bad usage or input; 130 interrupted." in result.stdout
    assert "_DEPLOY_KIT_COMPLETE=bash_source deploy-kit" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command):
    script = (
        "import sys\n"
        "from deploy_kit.cli.main import main\n"
        f"main(['{command}', '--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'torch', 'h5py', 'onnx', 'mujoco', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_version(cli):
    assert cli("--version").stdout.strip() == f"deploy-kit, version {version('deploy-kit')}"


@pytest.mark.parametrize(("command", "flag"), [(c, flag) for c, flags in ORIGIN_FLAGS.items() for flag in flags])
def test_flags_of_the_origin_work_with_underscores_and_hyphens(cli, command, flag):
    for spelling in (flag, flag.replace("_", "-")):
        result = cli(command, spelling, "x", "--no-such-option")
        # The flag is known: the complaint is about the option that is not.
        assert "No such option '--no-such-option'" in result.stderr, result.stderr


def test_a_misspelt_command_or_option_gets_a_suggestion(refused):
    refused("colect", words=("No such command 'colect'", "Did you mean 'collect'?"))
    refused("collect", "--num_env", "4", words=("No such option", "--num-envs"))


def test_zero_environments(refused):
    refused("collect", "--num_envs", 0, words=("--num-envs", "x>=1"))


def test_verify_flies_as_many_environments_as_episodes(cli, refused):
    assert "--num-envs" in cli("fly", "--help").stdout
    assert "--num-envs" not in cli("verify", "--help").stdout
    refused("verify", "b", "--num_envs", 4, words=("No such option '--num-envs'",))


def test_an_unknown_track_kind(refused):
    refused("fly", "p.pt", "--tracks", "figure8", words=("figure8", "circular, zigzag, ellipse"))


def test_a_bad_image_shape(refused):
    refused("inspect", "p.pt", "--image-shape", "72", words=("72x96",))


def test_a_bad_batch_size(refused):
    refused("export", "--batch-size", "0", words=("positive number", "dynamic"))


def test_two_ways_to_name_the_policy_contradict_each_other(refused):
    refused("fly", "p.pt", "--checkpoint", "q.pt", words=("not both",))


def test_the_stage_comes_from_the_environment_too(cli, monkeypatch):
    monkeypatch.setenv("TRAINING_STAGE", "7")
    result = cli("collect", "--checkpoint", "x")
    assert result.code == 2
    assert "7 is not in the range 0<=x<=2" in result.stderr


def test_a_users_own_export_module_beside_the_script_stays_out_of_it(tmp_path):
    (tmp_path / "export.py").write_text("raise SystemExit('the user\\'s export.py was executed')\n")
    (tmp_path / "verify.py").write_text("raise SystemExit('the user\\'s verify.py was executed')\n")
    for arguments in (
        ["-m", "deploy_kit", "export", "--help"],
        ["-c", "import deploy_kit.bundle.reader, deploy_kit.verify.table"],
    ):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


_TWICE = """
import atexit, os, signal, sys
import deploy_kit.cli.inspect
from deploy_kit.cli.main import main

def interrupted(path):
    raise KeyboardInterrupt

deploy_kit.cli.inspect.kind_of = interrupted
atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.argv[1:] = ["inspect", "file"]
main()
"""


def test_a_second_interrupt_does_not_reach_the_process_that_ends():
    done = subprocess.run([sys.executable, "-c", _TWICE], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")

"""Export a checkpoint with LEAPP itself, and run a description with LEAPP's own inference manager.

Both run in a process of their own: LEAPP patches torch and numpy while it traces.

    python leapp_export.py export CHECKPOINT FOLDER            writes FOLDER/FORM/FORM.yaml for each of FORMS
    python leapp_export.py rsl_rl FOLDER KIND…                 the same of rsl_rl's own models, for each KIND
    python leapp_export.py run [DESCRIPTION INPUTS.npz OUTPUTS.npz]…
"""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rsl_rl.models import RNNModel

FORMS = ("split", "flat", "probability")
"""State and image apart, one observation, a probability in place of the logit."""


def run_leapp(*arguments: object) -> None:
    """Run this module in a process of its own."""
    command = [sys.executable, "-P", __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _export(checkpoint: Path, folder: Path, form: str) -> None:
    import leapp
    import torch
    from leapp import annotate

    from deploy_kit.policy.checkpoint import load_checkpoint

    network = load_checkpoint(checkpoint).network
    layout = network.config.layout
    leapp.start(name=form, save_path=str(folder), max_cached_io=2)
    for _ in range(2):
        state, depth = torch.randn(1, layout.state_size), torch.rand(1, 1, *layout.image_shape)
        if form == "flat":
            observation = annotate.input_tensors("policy", {"obs": torch.cat([state, depth.flatten(1)], 1)})
            state, depth = network.split(observation)
        else:
            state, depth = annotate.input_tensors("policy", {"state": state, "depth": depth})
        with torch.no_grad():
            output = network.heads(network.features(state, depth))
        found = {"action": output.action, "gate": output.gate_logit}
        if form == "probability":
            found["gate"] = torch.sigmoid(output.gate_logit)
        annotate.output_tensors("policy", found, export_with="onnx")
    leapp.stop()
    leapp.compile_graph(visualize=False)


def _export_rsl_rl(folder: Path, kind: str) -> None:
    import leapp
    import torch
    from leapp import annotate

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from helpers.rsl_rl_files import make_policy

    model = make_policy(folder / f"{kind}-run", kind).model
    if model.is_recurrent:
        _export_with_memory(model, folder, kind)
        return
    twin = model.as_onnx(verbose=False).to("cpu").eval()
    leapp.start(name=kind, save_path=str(folder), max_cached_io=2)
    for _ in range(2):
        given = {
            name: torch.randn_like(dummy) for name, dummy in zip(twin.input_names, twin.get_dummy_inputs(), strict=True)
        }
        given = annotate.input_tensors("policy", given)
        with torch.no_grad():
            actions = twin(*given) if isinstance(given, tuple) else twin(given)
        annotate.output_tensors("policy", {"actions": actions}, export_with="onnx")
    leapp.stop()
    leapp.compile_graph(visualize=False)


def _export_with_memory(model: "RNNModel", folder: Path, kind: str) -> None:
    """Export a recurrent policy as Isaac Lab's exporter does: its memory is a state that LEAPP feeds back."""
    import leapp
    import torch
    from leapp import annotate
    from tensordict import TensorDict

    memory = model.rnn
    zeros = torch.zeros(memory.rnn.num_layers, 1, memory.rnn.hidden_size)
    memory.hidden_state = (zeros, zeros.clone()) if kind == "lstm" else zeros

    def state() -> dict[str, torch.Tensor]:
        hidden = memory.hidden_state
        named = enumerate(hidden) if isinstance(hidden, tuple) else [(0, hidden)]
        return {f"actor_state_{index}": values for index, values in named}

    leapp.start(name=kind, save_path=str(folder), max_cached_io=2)
    for _ in range(2):
        observation = annotate.input_tensors("policy", {"obs": torch.randn(1, model.obs_dim)})
        memory.hidden_state = annotate.state_tensors("policy", state())
        with torch.inference_mode():
            actions = model(TensorDict({"policy": observation}, batch_size=[1]))
        annotate.update_state("policy", state())
        annotate.output_tensors("policy", {"actions": actions}, export_with="onnx")
    leapp.stop()
    leapp.compile_graph(visualize=False)


def _run(description: str, inputs: str, outputs: str) -> None:
    import leapp
    import torch

    manager = leapp.InferenceManager(description)
    with np.load(inputs) as archive:
        arrays = dict(archive)
    rows = len(next(iter(arrays.values())))
    found: dict[str, list[np.ndarray]] = {}
    for row in range(rows):
        given = {f"policy/{name}": torch.from_numpy(array[row : row + 1]) for name, array in arrays.items()}
        for name, value in manager.run_policy(given).items():
            found.setdefault(name.removeprefix("policy/"), []).append(value.numpy())
    np.savez(outputs, **{name: np.concatenate(values) for name, values in found.items()})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    mode, *given = sys.argv[1:]
    if mode == "export":
        for name in FORMS:
            _export(Path(given[0]), Path(given[1]), name)
    elif mode == "rsl_rl":
        for name in given[1:]:
            _export_rsl_rl(Path(given[0]), name)
    else:
        for start in range(0, len(given), 3):
            _run(*given[start : start + 3])

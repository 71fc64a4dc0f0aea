"""Options of `export_bundle`."""

from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.bundle.contract_fields import GateOutput, InputLayout
from deploy_kit.bundle.tensor_names import check_tensor_names
from deploy_kit.errors import OptionError
from deploy_kit.policy.network_hints import NetworkHints

NATIVE_OPSET = 18
"""Opset that torch's exporter implements natively."""

FORMATS = ("cpp", "cpp-fp16", "cpp-int8", "leapp")
"""What a bundle may hold besides ONNX, TorchScript and safetensors."""

VARIANTS = ("fp16", "int8")
"""Narrower arithmetic that a bundle may hold a graph in."""

MIN_OPSET = 11
MAX_OPSET = 24


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and how.

    Attributes:
        checkpoint: the checkpoint file.
        output: the bundle's folder; `bundles/<checkpoint's stem>` if None.
        use_auxiliary_head: give the gate head as second output.
        feature_file: feature file of this policy, for golden samples and replay; None draws synthetic samples.
        input_layout: one flat observation, or state and depth apart.
        input_names: names of the inputs; defaults as in `GraphOptions`.
        output_names: names of the outputs; defaults as in `GraphOptions`.
        gate_output: whether the second output is a logit or a probability.
        opset: version of the ONNX graph.
        batch_size: a fixed size, or "dynamic".
        physical_actions: put tanh, scale and offset inside the graph.
        vehicle_file: the vehicle's numbers.
        task: task id, where it tells the vehicle's numbers.
        hints: what the checkpoint's weights do not tell.
        formats: what to add to the bundle, of `FORMATS`.
        variants: graphs in narrower arithmetic to add, "fp16" or "int8".
        overwrite: replace a bundle that exists.
        num_golden: how many golden samples.
        seed: seed of the synthetic samples.
        sign: files of private keys to sign the bundle with, one of each kind at most.
    """

    checkpoint: Path
    output: Path | None = None
    use_auxiliary_head: bool = False
    feature_file: Path | None = None
    input_layout: InputLayout = InputLayout.SPLIT
    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None
    gate_output: GateOutput = GateOutput.LOGIT
    opset: int = NATIVE_OPSET
    batch_size: int | str = "dynamic"
    physical_actions: bool = False
    vehicle_file: Path | None = None
    task: str | None = None
    hints: NetworkHints = field(default_factory=NetworkHints)
    formats: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    overwrite: bool = False
    num_golden: int = 64
    seed: int = 0
    sign: tuple[Path, ...] = ()

    @property
    def target(self) -> Path:
        """The bundle's folder."""
        return Path("bundles") / self.checkpoint.stem if self.output is None else self.output

    @property
    def fixed_batch(self) -> int | None:
        """The fixed batch size, None for a dynamic one."""
        return self.batch_size if isinstance(self.batch_size, int) else None

    def check(self) -> None:
        """Check the values, before anything is read.

        Raises:
            OptionError: a value is out of range, or a name cannot be one.
        """
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise OptionError(f"--opset {self.opset}: this version writes opsets {MIN_OPSET} to {MAX_OPSET}")
        if self.batch_size != "dynamic" and (
            not isinstance(self.batch_size, int) or isinstance(self.batch_size, bool) or self.batch_size < 1
        ):
            raise OptionError(f'--batch-size {self.batch_size}: give "dynamic" or a whole number of at least 1')
        if self.num_golden < 1:
            raise OptionError(f"--num-golden {self.num_golden}: at least one sample is needed")
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise OptionError(f"--format {unknown[0]}: not known; give {', '.join(FORMATS)}")
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise OptionError(f"--variant {unknown[0]}: not known; give {', '.join(VARIANTS)}")
        if "int8" in self.variants and self.feature_file is None:
            raise OptionError(
                "--variant int8 is calibrated on recorded observations: give --feature-file with observations "
                "(collect --keep-observations)"
            )
        for option, names in (("--input-names", self.input_names), ("--output-names", self.output_names)):
            if names is not None:
                # How many the graph has depends on the policy.
                check_tensor_names(option, names, len(names))

    def check_vision_names(self) -> None:
        """Check that as many names are given as the graph of a `VisionActorCritic` has inputs and outputs.

        Raises:
            OptionError: there are more or fewer.
        """
        wanted = {
            "--input-names": (self.input_names, 1 if self.input_layout is InputLayout.FLAT else 2),
            "--output-names": (self.output_names, 2 if self.use_auxiliary_head else 1),
        }
        for option, (names, count) in wanted.items():
            if names is not None:
                check_tensor_names(option, names, count)

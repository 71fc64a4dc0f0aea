"""A program as C++: its weights, its buffers and the functions that run its steps."""

from dataclasses import dataclass, field

from deploy_kit.cpp.activations import Activation
from deploy_kit.cpp.bands import bands_of
from deploy_kit.cpp.layout import Numbers, convolution_weights, dense_weights, filled_up, padded
from deploy_kit.cpp.literals import array_text
from deploy_kit.cpp.program import (
    ACTION,
    FEATURES,
    GATE,
    IMAGE,
    STATE,
    Convolution,
    Convolutions,
    Dense,
    Normalise,
    Product,
    Program,
    Step,
)
from deploy_kit.cpp.storage import Storage, stored_matrices

_TYPES = {"float32": "float", "float16": "std::uint16_t", "int8": "std::int8_t"}
"""Types of the arrays in C++; float16 as its bits, for not every compiler has such a type."""

_SUMS = "sums"
"""Buffer of sums that a scale is still to be multiplied to."""


@dataclass(frozen=True)
class _Buffer:
    """Numbers between steps: `groups` times `count`, each group filled up to `size`."""

    groups: int
    count: int
    size: int


@dataclass
class NetworkText:
    """The parts of a header that a program gives.

    Attributes:
        arrays: constants by name.
        types: structs of activations and layers.
        buffers: declarations of the buffers.
        encoder: statements from `STATE` and `IMAGE` to `FEATURES`.
        heads: statements from `FEATURES` to `ACTION` and `GATE`.
    """

    arrays: dict[str, Numbers] = field(default_factory=dict)
    types: str = ""
    buffers: str = ""
    encoder: str = ""
    heads: str = ""


def network_text(program: Program, storage: Storage = Storage.FLOAT32) -> NetworkText:
    """Write a program as C++.

    Args:
        program: the network.
        storage: how large matrices are stored.

    Raises:
        OptionError: a weight cannot be stored so.
    """
    return _Writer(program, storage).text


def camel_case(name: str) -> str:
    """Return a name with underscores as C++ names types."""
    return "".join(word.capitalize() for word in name.split("_"))


class _Writer:
    def __init__(self, program: Program, storage: Storage) -> None:
        self._matrices = stored_matrices(program, storage)
        rows, columns = program.image_shape
        self.text = NetworkText()
        self._activations: dict[str, Activation] = {}
        self._layers = ""
        self._buffers = {
            STATE: _whole(program.state_size),
            IMAGE: _Buffer(1, rows * columns, rows * columns),
        }
        # The weights that are read next after convolutions.
        dense = next(step for step in program.encoder if isinstance(step, Dense))
        self._next = f"k{camel_case(dense.products[0].name)}Weight"
        self.text.encoder = "".join(self._step(step) for step in program.encoder)
        self.text.heads = "".join(self._step(step) for step in program.heads)
        assert self._buffers[FEATURES].count == program.feature_size
        assert self._buffers[ACTION].count == program.num_actions
        assert (GATE in self._buffers) == program.gate
        # Without a gate output it stays 0.
        self._buffers.setdefault(GATE, _whole(1))
        self.text.types = "".join(activation.text for activation in self._activations.values()) + self._layers
        self.text.buffers = "".join(
            f"  alignas(64) float {name}[{padded(buffer.groups * buffer.size)}];\n"
            for name, buffer in self._buffers.items()
        )

    def _step(self, step: Step) -> str:
        match step:
            case Normalise():
                return self._normalise(step)
            case Convolutions():
                return self._convolutions(step)
            case Dense():
                return self._dense(step)

    def _array(self, name: str, values: Numbers) -> str:
        label = f"k{camel_case(name)}"
        assert label not in self.text.arrays
        self.text.arrays[label] = values
        return label

    def _activation(self, activation: Activation) -> str:
        assert self._activations.setdefault(activation.name, activation) == activation
        return activation.name

    def _normalise(self, step: Normalise) -> str:
        self._buffers[step.target] = self._buffers[step.source]
        mean, scale = self._array(f"{step.name}_mean", step.mean), self._array(f"{step.name}_scale", step.scale)
        return f"  kernels::normalise<{len(step.mean)}>(b.{step.source}, {mean}, {scale}, b.{step.target});\n"

    def _convolutions(self, step: Convolutions) -> str:
        """Write a chain of convolutions, band by band."""
        bands = bands_of(step.shape, step.layers)
        channels, pitch = 1, step.shape[1]
        lines, source = [], f"b.{step.source} + band * {bands.image_rows * pitch}"
        for layer, rows, columns in zip(step.layers, bands.rows, bands.columns, strict=True):
            last = layer is step.layers[-1]
            size = padded(len(layer.weight))
            target = step.target if last else f"{layer.name}_out"
            self._buffers[target] = _Buffer((bands.out_rows if last else rows) * columns, len(layer.weight), size)
            name = camel_case(layer.name)
            activation = self._activation(layer.activation)
            self._layers += _convolution_struct(name, layer, (pitch, channels), (columns, size), activation)
            weight = self._array(f"{layer.name}_weight", convolution_weights(layer.weight, channels))
            bias = self._array(f"{layer.name}_bias", filled_up(layer.bias))
            to = f"b.{target}" + (f" + band * {columns * size}" if last and bands.count > 1 else "")
            lines.append(f"    kernels::convolve<kernels::{name}>({source}, {weight}, {bias}, {to}, {rows}, ahead);\n")
            channels, pitch, source = size, columns * size, f"b.{target}"
        ahead = f"  auto ahead = reinterpret_cast<std::uintptr_t>({self._next});\n"
        return f"{ahead}  for (int band = 0; band < {bands.count}; ++band) {{\n{''.join(lines)}  }}\n"

    def _dense(self, step: Dense) -> str:
        count = len(step.bias)
        size = padded(count)
        self._buffers[step.target] = _whole(count)
        bias = self._array(f"{step.name}_bias", filled_up(step.bias))
        lines = [f"  kernels::copy<{size}>({bias}, b.{step.target});\n"]
        for product in step.products:
            lines += self._product(product, count, step.target)
        if step.activation.name != "Identity":
            activation = self._activation(step.activation)
            lines.append(f"  kernels::activate<kernels::{activation}, {size}>(b.{step.target});\n")
        return "".join(lines)

    def _product(self, product: Product, count: int, target: str) -> list[str]:
        """Write what adds a product to a buffer of `count` numbers."""
        source, size = self._buffers[product.source], padded(count)
        assert product.weight.shape == (count, source.groups * source.count), product.name
        matrix = self._matrices[product.name]
        values = dense_weights(matrix.values, source.groups, source.size if source.groups > 1 else source.count)
        weight = self._array(f"{product.name}_weight", values)
        call = f"  kernels::multiply<{values.size // size}, {size}>(b.{product.source}, {weight}, "
        if matrix.scale is None:
            return [f"{call}b.{target});\n"]
        scale = self._array(f"{product.name}_scale", filled_up(matrix.scale))
        self._buffers[_SUMS] = _whole(max(count, self._buffers.get(_SUMS, _whole(0)).count))
        return [
            f"  kernels::clear<{size}>(b.{_SUMS});\n",
            f"{call}b.{_SUMS});\n",
            f"  kernels::add_scaled<{size}>(b.{_SUMS}, {scale}, b.{target});\n",
        ]


def _whole(count: int) -> _Buffer:
    return _Buffer(1, count, padded(count))


def _convolution_struct(
    name: str, layer: Convolution, inside: tuple[int, int], outside: tuple[int, int], activation: str
) -> str:
    """Return the sizes of a convolution as a struct.

    Args:
        name: of the struct.
        layer: the convolution.
        inside: numbers of an input row, and of an input pixel.
        outside: pixels of an output row, and numbers of an output pixel.
        activation: name of its activation.
    """
    out, channels, rows, columns = layer.weight.shape
    down, right = layer.stride
    return (
        f"// {channels} to {out} channels, kernel {rows}x{columns}, stride {down}x{right}\n"
        f"struct {name} {{\n"
        f"  using Activation = {activation};\n"
        f"  static constexpr int kInPitch = {inside[0]}, kInChannels = {inside[1]};\n"
        f"  static constexpr int kKernelRows = {rows}, kKernelColumns = {columns};\n"
        f"  static constexpr int kStrideRows = {down}, kStrideColumns = {right};\n"
        f"  static constexpr int kOutColumns = {outside[0]}, kOutChannels = {outside[1]};\n"
        f"}};\n"
    )


def array_declaration(name: str, values: Numbers) -> str:
    """Return the definition of an array of weights."""
    kind = _TYPES[values.dtype.name]
    return f"alignas(64) inline const {kind} {name}[{values.size}] = {{\n{array_text(values)}}};\n"

"""Activations as C++: a struct each, with torch's constants."""

from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from deploy_kit.cpp.literals import float_literal
from deploy_kit.errors import OptionError


@dataclass(frozen=True)
class Activation:
    """An activation.

    Attributes:
        name: of its struct in C++.
        comment: what it computes.
        body: C++ that returns the activation of ``x``.
        vector: whether the body takes a vector, not one number.
        module: torch's.
    """

    name: str
    comment: str
    body: str
    vector: bool = False
    module: nn.Module = field(default_factory=nn.Identity, compare=False)

    @property
    def text(self) -> str:
        """The struct."""
        if self.vector:
            inside = f"static DEPLOY_KIT_INLINE Vector apply(Vector x) {{ {self.body} }}"
        else:
            inside = (
                f"static DEPLOY_KIT_INLINE float one(float x) {{ {self.body} }}\n"
                "  static DEPLOY_KIT_INLINE Vector apply(Vector x) { return each(x, one); }"
            )
        return f"// {self.comment}\nstruct {self.name} {{\n  {inside}\n}};\n"


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def activation_of(module: nn.Module) -> Activation:
    """Return a module's activation.

    Raises:
        OptionError: it is not among those that can be written as C++.
    """
    return replace(_written(module), module=module)


def _written(module: nn.Module) -> Activation:
    match module:
        case nn.Identity():
            return Activation("Identity", "x", "return x;", vector=True)
        case nn.ReLU():
            return Activation("Relu", "max(x, 0)", "return x < 0.0f ? Vector{} : x;", vector=True)
        case nn.LeakyReLU():
            slope = _number(module.negative_slope)
            return Activation("LeakyRelu", "x, scaled below 0", f"return x > 0.0f ? x : x * {slope};", vector=True)
        case nn.ELU() | nn.CELU():
            # torch: alpha * (exp(x) - 1), and alpha * (exp(x / alpha) - 1).
            alpha = float(module.alpha)
            inner = "x" if isinstance(module, nn.ELU) else f"x / {_number(alpha)}"
            name = type(module).__name__.capitalize()
            body = f"return x > 0.0f ? x : {_number(alpha)} * std::expm1({inner});"
            return Activation(name, "exponential below 0", body)
        case nn.SELU():
            scale, both = _number(_SELU_SCALE), _number(_SELU_ALPHA * _SELU_SCALE)
            body = f"return x > 0.0f ? {scale} * x : {both} * std::expm1(x);"
            return Activation("Selu", "scaled exponential below 0", body)
        case nn.GELU() if module.approximate == "none":
            body = f"return 0.5f * x * (1.0f + std::erf(x * {_number(np.sqrt(0.5))}));"
            return Activation("Gelu", "x times the normal distribution's cumulative function", body)
        case nn.Mish():
            return Activation("Mish", "x tanh(softplus(x))", f"return x * std::tanh({_SOFTPLUS});")
        case nn.Sigmoid():
            return Activation("Sigmoid", "1 / (1 + exp(-x))", f"return {_SIGMOID};")
        case nn.Softplus() if module.beta == 1 and module.threshold == 20:
            return Activation("Softplus", "log(1 + exp(x))", f"return {_SOFTPLUS};")
        case nn.SiLU():
            return Activation("Swish", "x / (1 + exp(-x))", f"return x * {_SIGMOID};")
        case nn.Tanh():
            return Activation("Tanh", "tanh(x)", "return std::tanh(x);")
    raise OptionError(f"--format cpp: the activation {module} cannot be written as C++")


_SOFTPLUS = "(x > 20.0f ? x : std::log1p(std::exp(x)))"
_SIGMOID = "(1.0f / (1.0f + std::exp(-x)))"


def _number(value: float) -> str:
    return float_literal(np.float32(value))

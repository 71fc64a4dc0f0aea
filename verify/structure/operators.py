"""Operators that a policy may be built of, and the forms that exporters give its activations."""

import math
from typing import Any

import numpy as np

Pattern = Any
"""("Op", pattern, …) for a node, "x" for what the activation is applied to, a number for a constant."""

ACTIVATION_FORMS: dict[str, tuple[Pattern, ...]] = {
    "crelu": (("Celu", "x"), ("Elu", "x")),
    "elu": (("Elu", "x"), ("Celu", "x")),
    "gelu": (
        ("Gelu", "x"),
        *(
            form
            for erf in (("Erf", ("Div", "x", math.sqrt(2.0))), ("Erf", ("Mul", "x", math.sqrt(0.5))))
            for form in (
                ("Mul", "x", ("Mul", 0.5, ("Add", 1.0, erf))),
                ("Mul", ("Mul", 0.5, "x"), ("Add", 1.0, erf)),
                ("Mul", 0.5, ("Mul", "x", ("Add", 1.0, erf))),
            )
        ),
    ),
    "identity": ("x",),
    "lrelu": (("LeakyRelu", "x"),),
    "mish": (("Mish", "x"), ("Mul", "x", ("Tanh", ("Softplus", "x")))),
    "relu": (("Relu", "x"),),
    "selu": (("Selu", "x"),),
    "sigmoid": (("Sigmoid", "x"),),
    "softplus": (("Softplus", "x"), ("Where", ("Greater", "x", 20.0), "x", ("Softplus", "x"))),
    "swish": (("Swish", "x"), ("Mul", "x", ("Sigmoid", "x"))),
    "tanh": (("Tanh", "x"),),
}
"""Forms of each activation of `policy.network.ACTIVATIONS`."""

COMMUTATIVE = frozenset({"Add", "Mul"})

ATTRIBUTES: dict[str, dict[str, tuple[Any, Any]]] = {
    "Add": {},
    "BatchNormalization": {"epsilon": (1e-5, None), "momentum": (0.9, None), "training_mode": (0, 0)},
    "Celu": {"alpha": (1.0, 1.0)},
    "Conv": {
        "auto_pad": (b"NOTSET", (b"NOTSET", b"VALID")),
        "dilations": ([1, 1], [1, 1]),
        "group": (1, 1),
        "kernel_shape": (None, None),
        "pads": ([0, 0, 0, 0], [0, 0, 0, 0]),
        "strides": ([1, 1], None),
    },
    "Div": {},
    "Dropout": {"seed": (0, None), "ratio": (0.5, None)},
    "Elu": {"alpha": (1.0, 1.0)},
    "Erf": {},
    "Flatten": {"axis": (1, 1)},
    "Gelu": {"approximate": (b"none", b"none")},
    "Gemm": {"alpha": (1.0, 1.0), "beta": (1.0, 1.0), "transA": (0, 0), "transB": (0, (0, 1))},
    "Greater": {},
    "Identity": {},
    "LeakyRelu": {"alpha": (0.01, 0.01)},
    "MatMul": {},
    "Mish": {},
    "Mul": {},
    "Relu": {},
    "Reshape": {"allowzero": (0, (0, 1))},
    "Selu": {
        "alpha": (1.6732632423543772, 1.6732632423543772),
        "gamma": (1.0507009873554805, 1.0507009873554805),
    },
    "Sigmoid": {},
    "Slice": {},
    "Softplus": {},
    "Split": {"axis": (0, 1), "num_outputs": (None, 2), "split": (None, None)},
    "Squeeze": {"axes": (None, None)},
    "Sub": {},
    "Swish": {"alpha": (1.0, 1.0)},
    "Tanh": {},
    "Unsqueeze": {"axes": (None, None)},
    "Where": {},
}
"""Operators on data; of each attribute its default and what it may be: one value, several, None for the network's."""

SHAPE_OPERATORS = frozenset({"Cast", "Concat", "Constant", "Gather", "Shape", "Transpose"})
"""Operators on weights and sizes alone; `constants` and `shapes` compute them."""

PROVEN = frozenset(ATTRIBUTES) | SHAPE_OPERATORS

RUNNABLE = PROVEN | frozenset(
    (
        *("Abs", "And", "Ceil", "Clip", "Cos", "Equal", "Exp", "Floor", "Gather", "GreaterOrEqual", "Less"),
        *("LessOrEqual", "Log", "Max", "Min", "Mod", "Neg", "Not", "Or", "Pow", "Reciprocal", "ReduceMax"),
        *("ReduceMean", "ReduceMin", "ReduceSum", "Round", "Sign", "Sin", "Sqrt", "Xor"),
    )
)
"""No policy needs these others, and a graph with one fails. They have no state, no control flow and no growth, so that
such a graph is still run, to show by how much it differs."""


def float32_equal(found: Any, wanted: float) -> bool:
    """Return whether an attribute is a number that float32 does not tell from the wanted one."""
    return isinstance(found, (int, float)) and bool(np.float32(found) == np.float32(wanted))

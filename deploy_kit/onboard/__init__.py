"""What runs on the drone: a bundle's ONNX graph with guards, transforms and a self-check at start.

Needs numpy and onnxruntime, nothing else: the folder can be copied to the drone's computer alone.

    policy = OnboardPolicy("bundle")
    output = policy.step(state, depth)      # metres in, thrust/mass and body rates out
"""

from .faults import Fault, OnboardFault
from .log_writer import RecordingOptions
from .options import OnboardOptions
from .runner import OnboardOutput, OnboardPolicy

__all__ = ["Fault", "OnboardFault", "OnboardOptions", "OnboardOutput", "OnboardPolicy", "RecordingOptions"]

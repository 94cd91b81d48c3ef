"""Operators in Triton for Hopper GPUs, which the training core takes where it finds them: `torch.ops.autoresearch`.

What only one kind of GPU can do lies here, so that the core has a general way and one line for a faster one. Importing
this takes triton, but no GPU.
"""

from autoresearch.harness.hopper import mlp, windows

__all__ = ["mlp", "windows"]

"""Stable Diffusion 1.5 at full size, with random weights, through every stage of the NPU path."""

"""Stable Diffusion 1.5 in full size, with random weights, through every stage of the NPU path."""

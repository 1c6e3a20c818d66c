"""Rewrites of graphs into what the NPU computes fast, one a file; prepare.py runs them."""

"""Rewrites of graphs into what the NPU computes fast, one a file; runtimes/rknn/prepare.py runs them."""

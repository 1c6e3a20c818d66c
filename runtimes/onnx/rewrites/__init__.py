"""Rewrites of ONNX graphs: each module has one function of its name, Graph to number of changes."""

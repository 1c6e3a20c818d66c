"""Rewrites of ONNX graphs: each module replaces one pattern by one that ONNX Runtime runs faster."""

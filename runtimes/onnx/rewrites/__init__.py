"""Rewrites of ONNX graphs: a module replaces one pattern by one that ONNX Runtime runs faster."""

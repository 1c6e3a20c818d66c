"""`lcm build onnx` of a full-size checkpoint in one file: time, memory, and what it computes."""

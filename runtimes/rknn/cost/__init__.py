"""What a .rknn file will cost on the NPU, predicted from the program in it, without a board.

`predict` is what `lcm info` and `lcm bench` show. docs/npu.md says what the figures stand on.
"""

from runtimes.rknn.cost.prediction import LayerCost, Prediction, predict, predict_all

__all__ = ["LayerCost", "Prediction", "predict", "predict_all"]

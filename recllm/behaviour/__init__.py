"""What people will do: buy, leave, redeem, order next, spend; with calibrated chances and the reasons of each."""

from recllm.behaviour.kinds import predict
from recllm.behaviour.prediction import Kind, Predicted, Prediction
from recllm.behaviour.question import Question

__all__ = ["Kind", "Predicted", "Prediction", "Question", "predict"]

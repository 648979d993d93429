"""Whom a treatment moves: S-, T- and X-learner on trials, and how well they order people (Qini)."""

from recllm.uplift.learners import Learner, UpliftModel, UpliftSettings, fit_uplift, held_out_uplift
from recllm.uplift.qini import QiniCurve, qini_curve, true_qini
from recllm.uplift.trial import Trial, check_assignment

__all__ = [
    "Learner",
    "QiniCurve",
    "Trial",
    "UpliftModel",
    "UpliftSettings",
    "check_assignment",
    "fit_uplift",
    "held_out_uplift",
    "qini_curve",
    "true_qini",
]

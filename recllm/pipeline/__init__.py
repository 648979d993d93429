"""The jobs of a workspace, from its store to an answer. The command line and the demonstration call these."""

from __future__ import annotations

from recllm.pipeline.adverts import AD_CHOICE, ad_for, ad_request, catalogue_item, open_generator, replay_ad, write_ads
from recllm.pipeline.clock import REPLAY_DAYS, present
from recllm.pipeline.learn import (
    Trained,
    advise_data,
    evaluate_data,
    export_encoder,
    train_workspace,
    tune_workspace,
    workspace_encoder,
)
from recllm.pipeline.load import add_feedback, describe_workspace, feedback_report, load_file, record_shown
from recllm.pipeline.serve import CHANNEL_PURPOSE, find_audience, open_recommender, person_evolution, person_profile

__all__ = [
    "AD_CHOICE",
    "CHANNEL_PURPOSE",
    "REPLAY_DAYS",
    "Trained",
    "ad_for",
    "ad_request",
    "add_feedback",
    "advise_data",
    "catalogue_item",
    "describe_workspace",
    "evaluate_data",
    "export_encoder",
    "feedback_report",
    "find_audience",
    "load_file",
    "open_generator",
    "open_recommender",
    "person_evolution",
    "person_profile",
    "present",
    "record_shown",
    "replay_ad",
    "train_workspace",
    "tune_workspace",
    "workspace_encoder",
    "write_ads",
]

"""Why: leave-one-out reasons and counterfactuals."""

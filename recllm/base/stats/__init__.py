"""Statistics on plain arrays: ranking metrics, intervals, and how good probabilities are."""

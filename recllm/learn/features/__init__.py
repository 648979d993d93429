"""What the scorer sees: collaborative statistics, candidates, pair features, item vectors."""

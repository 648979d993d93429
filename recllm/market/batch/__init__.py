"""Slates, audiences, texts and predictions for everybody, shard by shard, in one process or several."""

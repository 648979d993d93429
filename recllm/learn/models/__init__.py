"""What is learned and saved: the scorer and the sequence model."""

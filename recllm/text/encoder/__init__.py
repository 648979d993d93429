"""Texts to unit vectors: any model of the sentence-transformers ecosystem, a disk cache around it, a toy for tests.

encoder = load_encoder()                    # all-MiniLM-L6-v2, wherever its files are
vectors = encoder.encode(["red shoes"])     # (1, 384) float32, unit rows
"""

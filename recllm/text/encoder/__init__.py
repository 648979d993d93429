"""Texts to unit vectors: any model of the sentence-transformers ecosystem, a disk cache around it, a toy for tests.

    encoder = load_encoder()                    # all-MiniLM-L6-v2, wherever its files are
    vectors = encoder.encode(["red shoes"])     # (1, 384) float32, unit rows

`load_encoder` of `recllm.text.encoder.loading` opens one, and `find_weights` there says where a model's files are read
from. Name, fingerprint and dimension come from the files; torch is imported when a text is to be encoded that the
cache does not hold.
"""

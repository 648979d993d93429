"""Texts to unit vectors: any BERT-family model on disk, a disk cache around it, and a toy for tests.

    encoder = load_encoder()                    # all-MiniLM-L6-v2, wherever its files are
    vectors = encoder.encode(["red shoes"])     # (1, 384) float32, unit rows

`load_encoder` is the door; `find_weights` tells where the files of a model would be read from. Nothing heavy is
imported before the first call.
"""

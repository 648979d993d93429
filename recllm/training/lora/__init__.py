"""LoRA fine-tuning of the text encoder on a shop's purchase log, and of a generator on its approved copy.

The encoder is trained through the question that it will be asked: which of a past window's items does a person, seen
as the set of what they had bought, take for the first time? `tune_encoder` is the door. `tune_generator`
teaches a causal language model how the shop writes.
"""

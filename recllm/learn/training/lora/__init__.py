"""LoRA fine-tuning of the text encoder on a shop's purchase log, and of a generator on its approved copy."""

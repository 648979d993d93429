"""What finds one kind of personal data each: a text to its spans. `recllm.text.personal_data` puts them together."""

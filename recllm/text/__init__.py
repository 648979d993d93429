"""Text and what reads it.

The modules here make words of facts: items, customers, reasons and prompts, in English and Chinese, and find personal
data. `encoder`: text to vectors. `generator`: language models that write.
"""

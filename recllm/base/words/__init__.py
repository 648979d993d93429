"""All sentences that people read, in each language: one folder of TOML files per language, and how they are said.

A sentence is found by its path ("nav.people"), and what it leaves open stands in {braces}. Texts with conditions and
loops are templates instead: see `recllm.text.templates`, which shops may word for their own domain.
"""

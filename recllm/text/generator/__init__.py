"""A prompt to text: a local model, a server, or a script. Everything here satisfies `recllm.base.schema.Generator`.

    generator = find_generator("smollm2", cache_dir=Path("cache"))
    generator.generate("Say hello.", n=4, seed=1)

A generator has no tools, no files and no say: what it writes is checked by the caller. Nothing heavy is imported before
a local model is loaded.
"""

"""Text in, token files out: sources, split, tokenizers, manifest, reader."""

import numpy as np

from autoresearch.harness import validation


def test_every_token_is_a_target_once(texts):
    for vocab, file in texts.validation.items():
        stream = np.fromfile(file.path, dtype="<u2")
        text = validation.read(file, 48, 10**9)
        assert (text.stream == stream).all()
        assert text.targets == file.tokens
        assert text.bytes == file.bytes
        assert (text.tokens[:, 0] == vocab - 1).all()
        padding = text.tokens[-1, 1:][text.targets - 48 * (len(text.tokens) - 1) :]
        assert (padding == vocab - 1).all()


def test_only_whole_documents_up_to_the_limit(texts):
    short = validation.read(texts.validation[256], 32, 10_000)
    other = validation.read(texts.validation[1024], 64, 10_000)
    assert 0 < short.bytes <= 10_000
    assert short.stream[-1] == 255
    assert short.bytes == other.bytes  # the same text, whatever the vocabulary


def test_sizes_count_the_text_of_each_target(texts):
    byte, pair = (validation.read(texts.validation[vocab], 32, 10**9) for vocab in (256, 1024))
    ends = [text.sizes.cumsum()[text.stream == text.bos] for text in (byte, pair)]
    assert (ends[0] == ends[1]).all()  # documents end at the same places
    assert ends[0][-1] == byte.bytes == pair.bytes

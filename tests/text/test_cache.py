import pytest
import torch
from transformers import DynamicCache

from reclm.llm.engines.transformers import RoomyLayer, repeated


def states(rows, tokens):
    return torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)


@pytest.fixture
def prefix():
    cache = DynamicCache()
    for layer in range(2):
        cache.update(*states(1, 5), layer)
    return cache


def test_it_holds_what_transformers_cache_holds(prefix):
    plain = DynamicCache()
    for layer in range(2):
        plain.update(
            *(one.repeat(3, 1, 1, 1) for one in (prefix.layers[layer].keys, prefix.layers[layer].values)),
            layer,
        )
    roomy = repeated(prefix, 3)
    assert isinstance(roomy.layers[0], RoomyLayer)
    # many single tokens, then more at once than there is room for, then fewer rows
    for tokens in (*[1] * 70, 150, 1):
        for layer in range(2):
            new = states(3, tokens)
            for one, other in zip(plain.update(*new, layer), roomy.update(*new, layer), strict=True):
                assert torch.equal(one, other)
        assert roomy.get_seq_length() == plain.get_seq_length()
    for cache in (plain, roomy):
        cache.batch_select_indices(torch.tensor([2, 0]))
    new = states(2, 1)
    for one, other in zip(plain.update(*new, 0), roomy.update(*new, 0), strict=True):
        assert torch.equal(one, other)
    assert prefix.get_seq_length() == 5


def test_a_token_is_written_in_place(prefix):
    cache = repeated(prefix, 2)
    (layer, _) = cache.layers
    assert isinstance(layer, RoomyLayer)
    before = layer.keys.data_ptr()
    cache.update(*states(2, 1), 0)
    assert layer.keys.data_ptr() == before


def test_nothing_shared():
    cache = repeated(DynamicCache(), 2)
    new = states(2, 3)
    assert torch.equal(cache.update(*new, 0)[0], new[0])

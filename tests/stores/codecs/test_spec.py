"""Codecs are read from their text and written back; what cannot be read says why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores import UsageError
from kdpipe.stores.codecs import Factorised, Float16, Float32, Int8, TopK, parse_codec

TEMPERATURES = st.lists(st.floats(0.01, 1000), min_size=1, max_size=4, unique=True).map(tuple)
CODECS = st.one_of(
    st.builds(Float32, compressed=st.booleans()),
    st.builds(Float16, compressed=st.booleans()),
    st.builds(Int8, compressed=st.booleans()),
    st.builds(TopK, k=st.integers(1, 65536), temperatures=TEMPERATURES, compressed=st.booleans()),
    st.builds(Factorised, num_features=st.integers(0, 65536), compressed=st.booleans()),
)


@given(CODECS)
def test_every_codec_survives_its_text(codec):
    assert parse_codec(str(codec)) == codec


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("float16", Float16()),
        ("int8+zstd", Int8(compressed=True)),
        ("topk:50", TopK(k=50, temperatures=(1, 4))),
        ("topk:50,temperatures=2.5,1+zstd", TopK(k=50, temperatures=(2.5, 1), compressed=True)),
        ("factorised", Factorised()),
    ],
)
def test_the_grammar(text, codec):
    assert parse_codec(text) == codec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flaot16", "Did you mean 'float16'"),
        ("", "Unknown codec ''"),
        ("float16+lz4", "only '+zstd' can follow"),
        ("float16+zstd+zstd", "only '+zstd' can follow"),
        ("topk", "topk:K"),
        ("topk:", "topk:K"),
        ("topk:0", "keeps no class"),
        ("topk:-3", "'-3' is not a number"),
        ("topk:5,temperatures=", "'' is no list"),
        ("topk:5,temperatures=1,x", "'1,x' is no list"),
        ("topk:5,temperatures=1,1", "each once"),
        ("topk:5,temperatures=0", "between 0.01 and 1000"),
        ("topk:5,temperatures=nan", "between 0.01 and 1000"),
        ("topk:5,temperatures=1,temperatures=2", "topk:K"),
        ("int8:4", "takes no options"),
        ("float16,temperatures=1", "takes no options"),
        ("factorised:x", "'x' is not a number"),
    ],
)
def test_what_cannot_be_read_says_why(text, says):
    with pytest.raises(UsageError) as error:
        parse_codec(text)
    assert says in str(error.value)

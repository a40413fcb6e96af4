"""Addresses: what is read from them, and that nothing secret is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores import UsageError
from kdpipe.stores.remote.location import Location, is_url

WORDS = st.text("abcXYZ019-", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("s3://team/stores/a.kd/", "s3://team/stores/a.kd"),
        ("gs://team", "gs://team"),
        ("az://container/x", "az://container/x"),
        ("https://user:word@host:8443/a.kd?sig=SECRET#x", "https://host:8443/a.kd"),
        ("http://localhost:1/a", "http://localhost:1/a"),
        ("runs/a.kd", "runs/a.kd"),
        ("/", "/"),
    ],
)
def test_addresses_are_read(text: str, public: str) -> None:
    location = Location.parse(text)
    assert str(location) == public
    assert location.is_local == (not is_url(text))
    assert "SECRET" not in repr(location)
    assert "word" not in repr(location)
    assert location.is_writable == (not public.startswith("http"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s4://team/a", "Did you mean 's3'"),
        ("s3:///a", "names no bucket"),
        ("https://user:SECRET@", "names no bucket"),
        ("s3://team/a/../b", "'..' part"),
        ("s3://KEY:SECRET@team/a", "never from the address"),
        ("s3://team/a?token=SECRET", "never from the address"),
        ("http://example.org/a", "not encrypted"),
        ("s3:/team/a.kd", "begins with s3://"),
        ("https:/user:SECRET@host/a.kd", "begins with https://"),
    ],
)
def test_what_cannot_be_used_is_refused_without_a_secret(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        Location.parse(text)
    assert "SECRET" not in str(refused.value)
    assert "KEY" not in str(refused.value)


@given(user=WORDS, word=WORDS, names=st.lists(WORDS, min_size=1, max_size=3), query=WORDS)
def test_a_child_keeps_what_opens_it_and_shows_none_of_it(user: str, word: str, names: list[str], query: str) -> None:
    top = Location.parse(f"https://{user}:{word}@host/top?{query}")
    place = top
    for name in names:
        place = place.child(name)
    path = "/".join(names)
    assert place.address == f"https://{user}:{word}@host/top/{path}?{query}"
    assert str(place) == f"https://host/top/{path}"
    assert str(Location.parse("s3://b").child("x")) == Location.parse("s3://b").child("x").address == "s3://b/x"

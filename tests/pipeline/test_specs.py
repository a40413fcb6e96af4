"""Specs: what is written can be read back, and what cannot be read is refused with a hint."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kdpipe.pipeline.specs import Spec
from kdpipe.stores.errors import UsageError

# the characters the grammar treats apart, often, and any others
TEXT = st.text(st.one_of(st.sampled_from("\\,=:ab1_ é/"), st.characters(exclude_categories=["Cs"])), max_size=12)
NAMES = TEXT.map(lambda text: text.replace(":", "").strip()).filter(bool)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,4}", fullmatch=True)


@given(NAMES, TEXT, st.dictionaries(KEYS, TEXT, max_size=4))
@example("n", "a,b=c", {})
@example("n", "", {"k": "a\\,b"})
@example("n", "", {"k": "a\\", "b": "c"})
@example("n", "dir\\", {"k": "a,", "b": "=x=y,z="})
@example("n", "a\\\\,b=c", {"k": "1,l=\\"})
def test_a_spec_is_read_back_from_its_text(name: str, location: str, options: dict[str, str]) -> None:
    spec = Spec(name, location, options)
    assert Spec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kd", Spec("kd")),
        ("folder:/a/b", Spec("folder", "/a/b")),
        ("hf:a:b,split=train", Spec("hf", "a:b", {"split": "train"})),
        ("image,mean=0.5,0.4,0.3,std=1,1,1", Spec("image", "", {"mean": "0.5,0.4,0.3", "std": "1,1,1"})),
        (r"folder:/a\,b=c,k=v", Spec("folder", "/a,b=c", {"k": "v"})),
        (r"folder:/a\,b,k=v", Spec("folder", "/a,b", {"k": "v"})),
        ("parquet:/a,b,image=c", Spec("parquet", "/a,b", {"image": "c"})),
        ("python:m:f,query=a=b&c=d", Spec("python", "m:f", {"query": "a=b&c=d"})),
        ("x,k=", Spec("x", "", {"k": ""})),
        (r"x,k=C:\dir\,l=2", Spec("x", "", {"k": r"C:\dir,l=2"})),
        (r"x,k=C:\dir\\,l=2", Spec("x", "", {"k": "C:\\dir\\", "l": "2"})),
        ("x,1=2", Spec("x,1=2")),
    ],
)
def test_the_grammar(text: str, expected: Spec) -> None:
    assert Spec.parse(text) == expected


@pytest.mark.parametrize("text", ["", "  ", ":folder", ",a=1"])
def test_a_spec_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names nothing"):
        Spec.parse(text)


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="gives 'seed' twice"):
        Spec.parse("digits,seed=1,split=train,seed=1")


@dataclass(frozen=True)
class Options:
    size: int = 1
    ratio: float = 0.0
    flag: bool = False
    split: Literal["train", "test"] = "train"
    mean: tuple[float, ...] = (0.0,)
    ends: tuple[int, ...] | None = None
    names: tuple[str, ...] = field(default=())
    limit: int | None = None


def test_options_become_the_types_of_a_dataclass() -> None:
    text = "image,size=3,ratio=1e-3,flag=true,split=test,mean=0.5,0.25,ends=7,names=a,b,,limit=4"
    wanted = Options(3, 1e-3, True, "test", (0.5, 0.25), (7,), ("a", "b", ""), 4)
    assert Spec.parse(text).into(Options) == wanted
    assert Spec.parse("image").into(Options) == Options()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("size=2.5", "a whole number"),
        ("limit=many", "a whole number"),
        ("ratio=much", "a number"),
        ("flag=perhaps", "true or false"),
        ("split=tain", "one of train, test"),
        ("mean=1,x", "a list between commas, each a number"),
        ("ends=1.5", "a list between commas, each a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_and_the_spec_named(option: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"image,{option}' cannot be read: {option} must be {reason}\.$"):
        Spec.parse(f"image,{option}").into(Options)


def test_a_value_that_is_missing_is_named() -> None:
    @dataclass(frozen=True)
    class Needy:
        size: int
        ratio: float
        seed: int = 0

    with pytest.raises(UsageError, match=r"The spec 'crop,seed=1' needs size=\.\.\. and ratio=\.\.\.\.$"):
        Spec.parse("crop,seed=1").into(Needy)


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"option of 'image' 'sise'. Did you mean 'size'\?"):
        Spec.parse("image,sise=3").into(Options)


@pytest.mark.parametrize(
    "key", ["token", "HF_TOKEN", "secret", "password", "passwd", "api_key", "APIKEY", "credentials"]
)
def test_secrets_stay_out_of_the_public_text(key: str) -> None:
    assert Spec.parse(f"hf:name,split=train,{key}=abc123,n=1").public() == "hf:name,split=train,n=1"


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("x:https://u:TOP@h/a?sig=TOP", "x:https://h/a"),
        ("python:m:f,url=https://u:TOP@h/a?sig=TOP,n=1", "python:m:f,url=https://h/a,n=1"),
        ("python:m:f,url=s3://u:T@OP@h/a@b", "python:m:f,url=s3://h/a@b"),
        ("python:m:f,query=a=b?c,to=a//b@c", "python:m:f,query=a=b?c,to=a//b@c"),
    ],
)
def test_addresses_are_public_without_user_and_query_wherever_they_stand(text: str, public: str) -> None:
    assert Spec.parse(text).public() == public
    assert Spec.parse(public).public() == public  # a store's record is compared with it


def test_take_splits_the_options() -> None:
    taken, rest = Spec.parse("digits:x,seed=1,split=train,imbalance=2").take("imbalance", "seed", "absent")
    assert taken == Spec("digits", "x", {"seed": "1", "imbalance": "2"})
    assert rest == Spec("digits", "x", {"split": "train"})

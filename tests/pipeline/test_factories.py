import sys
import uuid

import pytest
from kdpipe.pipeline.factories import call_factory, convert, import_attribute, named_parameters
from kdpipe.stores.errors import KdpipeError, UsageError


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Write a module into the working directory, which is not on the path, and return its name."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)

    def write(source):
        name = f"user_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


def test_the_working_directory_is_searched_first_and_entered_once(write_module, tmp_path):
    name = write_module("def make():\n    return 'made'\n")
    for _ in range(2):
        assert import_attribute(f"{name}:make")() == "made"
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def test_a_module_in_a_package(write_module, tmp_path):
    (tmp_path / "pack_of_test").mkdir()
    (tmp_path / "pack_of_test" / "inner.py").write_text("def make():\n    return 7\n")
    assert call_factory("pack_of_test.inner:make", {}, {}) == 7
    del sys.modules["pack_of_test"], sys.modules["pack_of_test.inner"]


@pytest.mark.parametrize("location", ["module", "module:", ":make", "a b:make", ".a:make", "a:b.c", "a..b:c", ""])
def test_a_location_of_another_form(location):
    with pytest.raises(UsageError, match=r"Write python:package\.module:function"):
        import_attribute(location)


@pytest.mark.parametrize("module", ["no_such_module_here", "no_such_package.module", "json.no_such_module"])
def test_no_such_module(module):
    with pytest.raises(UsageError, match=f"There is no Python module '{module}'"):
        import_attribute(f"{module}:make")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_module_that_fails_to_import_is_told_from_one_that_is_missing(write_module, source, message):
    with pytest.raises(KdpipeError, match=message) as caught:
        import_attribute(f"{write_module(source)}:make")
    assert not isinstance(caught.value, UsageError)
    assert caught.value.__cause__ is not None


def test_the_nearest_function_is_suggested_and_no_other_values(write_module):
    name = write_module("def make_model(): ...\ndef _make_models(): ...\nmake_mode = 3\n")
    with pytest.raises(UsageError, match=r"Did you mean 'make_model'\? Known: make_model\.$"):
        import_attribute(f"{name}:make_mode")


def test_options_are_converted_and_offers_are_taken_only_by_name(write_module):
    name = write_module("def make(width, num_classes=1, *, rate=0.0):\n    return width, num_classes, rate\n")
    offered = {"num_classes": 10, "in_channels": 3}
    assert call_factory(f"{name}:make", {"width": "2", "rate": "0.5"}, offered) == (2, 10, 0.5)
    assert call_factory(f"{name}:make", {"width": "2", "num_classes": "4"}, offered) == (2, 4, 0.0)


def test_open_keywords_take_options_and_not_offers(write_module):
    name = write_module("def make(**options):\n    return options\n")
    assert call_factory(f"{name}:make", {"a": "x"}, {"num_classes": 10}) == {"a": "x"}


def test_a_class_is_a_factory(write_module):
    name = write_module("class Net:\n    def __init__(self, num_classes):\n        self.classes = num_classes\n")
    assert call_factory(f"{name}:Net", {}, {"num_classes": 6}).classes == 6


def test_an_unknown_option_suggests_the_nearest(write_module):
    name = write_module("def make(width=1): ...")
    with pytest.raises(UsageError, match=r"Unknown option of 'python:.*:make' 'widht'\. Did you mean 'width'\?"):
        call_factory(f"{name}:make", {"widht": "2"}, {})


def test_a_missing_argument_is_the_users_and_a_type_error_inside_is_the_factorys(write_module):
    name = write_module("def needs(depth): ...\ndef fails():\n    raise TypeError('inside')\n")
    with pytest.raises(UsageError, match=r"needs\(depth\) cannot be called: missing a required argument: 'depth'"):
        call_factory(f"{name}:needs", {}, {})
    with pytest.raises(KdpipeError, match=r"The factory .*:fails raised TypeError: inside") as caught:
        call_factory(f"{name}:fails", {}, {})
    assert not isinstance(caught.value, UsageError)
    assert isinstance(caught.value.__cause__, TypeError)


def test_an_error_of_kdpipe_passes_through(write_module):
    name = write_module("from kdpipe.stores.errors import UsageError\ndef make():\n    raise UsageError('as it is')\n")
    with pytest.raises(UsageError, match=r"^as it is$"):
        call_factory(f"{name}:make", {}, {})


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-3", -3), ("0.5", 0.5), ("1e-3", 0.001), ("true", True), ("False", False), ("x", "x"), ("", "")],
)
def test_conversion(text, value):
    assert convert(text) == value
    assert type(convert(text)) is type(value)


def test_parameters_of_a_builtin_without_a_signature_are_none():
    assert named_parameters(dict) == set()

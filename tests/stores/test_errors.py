"""Each error is one exit code; a wrong name gets the nearest right one."""

import pytest
from kdpipe.stores import errors
from kdpipe.stores.errors import UsageError, missing_extra, unknown


def test_an_unknown_name_suggests_the_nearest_and_lists_all():
    error = unknown("loss", "lktd", iter(["kd", "ltkd", "grkd"]))
    assert isinstance(error, UsageError)
    assert str(error) == "Unknown loss 'lktd'. Did you mean 'ltkd'? Known: grkd, kd, ltkd."


@pytest.mark.parametrize(("name", "near"), [("KD", "kd"), ("GRKD", "grkd"), ("T", "temperature"), ("w", None)])
def test_case_does_not_matter_and_a_beginning_is_enough_where_one_name_has_it(name, near):
    known = ["kd", "grkd", "temperature", "weight", "warmup"]
    assert (f"Did you mean '{near}'?" in str(unknown("loss", name, known))) == (near is not None)


@pytest.mark.parametrize(
    ("known", "message"),
    [(["kd"], "Unknown loss 'something'. Known: kd."), ([], "Unknown loss 'something'. Known: none.")],
)
def test_nothing_is_suggested_where_nothing_is_near(known, message):
    assert str(unknown("loss", "something", known)) == message


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("KdpipeError", 1), ("UsageError", 2), ("RefusedError", 3), ("MismatchError", 3), ("CorruptStoreError", 3),
        ("MissingArrayError", 3), ("BadLogitsError", 3), ("BadSampleError", 1), ("MissingExtraError", 1),
    ],
)  # fmt: skip
def test_exit_codes(name, code):
    error = getattr(errors, name)
    assert issubclass(error, errors.KdpipeError)
    assert error.exit_code == code


def test_a_wrong_argument_is_also_a_value_error():
    assert issubclass(UsageError, ValueError)


def test_a_missing_extra_says_how_to_get_it():
    assert "pip install 'kdpipe[remote]'" in str(missing_extra("remote", "Reading s3://"))

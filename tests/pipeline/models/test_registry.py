import pytest
from kdpipe.pipeline.models import create_model, model_names, register_model
from kdpipe.stores.errors import UsageError
from torch import nn


def test_an_unknown_name_lists_the_names_and_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"Unknown model 'resnet8x5'\. Did you mean 'resnet8x4'\?.*wrn_40_2"):
        create_model("resnet8x5", 10)


@pytest.mark.parametrize(("classes", "channels"), [(0, 3), (10, 0), (-1, 3)])
def test_counts_below_one_are_refused(classes, channels):
    with pytest.raises(UsageError, match="Give 1 or more"):
        create_model("convnet_tiny", classes, channels)


def test_names_are_sorted():
    assert model_names() == sorted(model_names())


def test_a_name_is_registered_once():
    def convnet_tiny(num_classes: int, in_channels: int = 3) -> nn.Module:
        return nn.Identity()

    with pytest.raises(ValueError, match="'convnet_tiny' is registered twice"):
        register_model(convnet_tiny)
    assert not isinstance(create_model("convnet_tiny", 2), nn.Identity)


def test_a_registered_function_comes_back_unchanged_and_can_be_created():
    from kdpipe.pipeline.models import registry

    def only_for_this_test(num_classes: int, in_channels: int = 3) -> nn.Module:
        return nn.Linear(in_channels, num_classes)

    try:
        assert register_model(only_for_this_test) is only_for_this_test
        assert create_model("only_for_this_test", 4, 2)(__import__("torch").zeros(1, 2)).shape == (1, 4)
    finally:
        del registry._MODELS["only_for_this_test"]

import pytest
import torch
from kdpipe.pipeline.models import create_model, model_names, parameter_count

# 100 classes, 3 channels: all but convnet_tiny are the counts of the distillation literature
COUNTS = {
    "convnet_tiny": 30_196,
    "mobilenetv2": 812_836,
    "resnet20": 278_324,
    "resnet32x4": 7_433_860,
    "resnet50": 23_705_252,
    "resnet8": 83_892,
    "resnet8x4": 1_233_540,
    "shufflenetv1": 949_258,
    "wrn_16_2": 703_284,
    "wrn_40_2": 2_255_156,
}
EVERY_MODEL = pytest.mark.parametrize("name", sorted(COUNTS))


def images(batch, channels, size):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_the_table_above_names_every_model():
    assert sorted(COUNTS) == model_names()


@EVERY_MODEL
def test_parameter_count_is_the_published_one(name):
    assert parameter_count(create_model(name, 100)) == COUNTS[name]


@EVERY_MODEL
def test_logits_for_every_size_and_number_of_channels(name):
    for channels in (1, 3):
        network = create_model(name, 7, channels).eval()
        with torch.no_grad():
            for size in (8, 28, 32):
                logits = network(images(2, channels, size))
                assert logits.shape == (2, 7)
                assert torch.isfinite(logits).all()


@EVERY_MODEL
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    network = create_model(name, 5, 1).train()
    loss = torch.nn.functional.cross_entropy(network(images(4, 1, 28)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    idle = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []


@EVERY_MODEL
def test_in_evaluation_a_row_does_not_depend_on_its_batch(name):
    torch.manual_seed(0)
    network = create_model(name, 5, 3)
    batch = images(4, 3, 32)
    with torch.no_grad():
        network.train()(batch)  # running statistics other than the initial 0 and 1
        network.eval()
        torch.testing.assert_close(network(batch[1:2]), network(batch)[1:2], rtol=1e-4, atol=1e-5)


@EVERY_MODEL
def test_the_seed_decides_the_weights(name):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in create_model(name, 5, 1).parameters()])

    torch.testing.assert_close(weights(0), weights(0), rtol=0, atol=0)
    assert not torch.equal(weights(0), weights(1))


@EVERY_MODEL
def test_initial_logits_are_of_the_order_of_one(name):
    torch.manual_seed(0)
    network = create_model(name, 100, 3).train()
    with torch.no_grad():
        spread = network(images(16, 3, 32)).std().item()
    assert 0.01 < spread < 10


def test_a_convolution_starts_with_variance_two_by_fan_out_counted_per_group():
    torch.manual_seed(0)
    network = create_model("mobilenetv2", 10)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.numel() > 3000:
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1] / layer.groups
            assert layer.weight.var().item() == pytest.approx(2 / fan_out, rel=0.15)


def test_channel_shuffle_interleaves_the_groups():
    from kdpipe.pipeline.models.shufflenet import shuffle_channels

    channels = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert shuffle_channels(channels, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    ("name", "factor"), [("resnet20", 4), ("wrn_16_2", 4), ("mobilenetv2", 16), ("shufflenetv1", 8)]
)
def test_the_last_features_are_smaller_by_the_strides(name, factor):
    network = create_model(name, 10).eval()
    seen = []
    network.get_submodule("pool").register_forward_hook(lambda module, args, out: seen.append(args[0].shape[-1]))
    network(images(1, 3, 32))
    assert seen == [32 // factor]


def test_a_wide_networks_projections_read_activated_inputs():
    network = create_model("wrn_16_2", 10).eval()
    seen = []
    for name, layer in network.named_modules():
        if name.endswith(".projection"):
            layer.register_forward_hook(lambda module, args, out: seen.append(args[0].min().item()))
    network(images(1, 3, 32))
    assert seen == [0.0, 0.0, 0.0]

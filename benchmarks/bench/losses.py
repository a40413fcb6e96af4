"""The losses alone: GRKD against broadcasting all pairs, KD and LTKD against two log-softmaxes; forward and backward."""

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from kdpipe.pipeline.losses import grkd, kd, ltkd, pairs_torch
from kdpipe.pipeline.losses.grkd import complete_order
from measure import anonymous_memory, in_child, ratios, spread, take_turns
from torch import Tensor

BATCH_SIZE = 256
# each of a pair's two places takes one; a multiprocessor begins 16 a clock (CUDA C++ Programming Guide, throughput of
# native arithmetic instructions, compute capability 7.x to 9.0)
_RECIPROCALS_A_PAIR, _RECIPROCAL_UNITS = 2, 16


def run(scale: float = 1.0) -> list[dict[str, Any]]:
    """GRKD, then KD and LTKD, at 100 and 1000 classes."""
    gpu = torch.cuda.is_available()
    shapes = [(1024, 1000)] if gpu else [(BATCH_SIZE, 100), (BATCH_SIZE, 1000)]
    device = torch.device("cuda" if gpu else "cpu")
    records = [_pairs(batch, classes, device, scale) for batch, classes in shapes]
    return records + [_softmaxes(batch, classes, device, scale) for batch, classes in shapes]


def broadcast(student_logits: Tensor, ranks: Tensor) -> Tensor:
    """GRKD as one would write it: a (B, C, C) tensor of all differences."""
    scores = student_logits.gather(1, ranks)
    gaps = scores[:, :, None] - scores[:, None, :]
    above = torch.ones(gaps.shape[1:], dtype=torch.bool, device=gaps.device).triu(1)
    return torch.where(above, torch.nn.functional.softplus(-gaps), 0).sum((1, 2)).mean()


def plain_torch(student_logits: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor | None]:
    """The path where no kernel can be compiled."""
    scores = student_logits.detach().gather(1, complete_order(ranks, student_logits.shape[1]))
    return pairs_torch.pair_losses(scores, scores.shape[1])


def _inputs(batch: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(batch, classes, generator=generator)
    teacher = 3 * torch.randn(batch, classes, generator=generator)
    return student.to(device).requires_grad_(), teacher.to(device), teacher.argsort(1, descending=True).to(device)


def _pairs(batch: int, classes: int, device: torch.device, scale: float) -> dict[str, Any]:
    student, _, ranks = _inputs(batch, classes, device)

    def whole(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            student.grad = None
            loss().backward()
            _wait(device)

        return run

    candidates = {
        "broadcast": whole(lambda: broadcast(student, ranks)),
        "kdpipe": whole(lambda: grkd(student, ranks=ranks, reduction="sum")),
        "plain torch": lambda: plain_torch(student, ranks),
    }
    seconds = take_turns(candidates, max(3, int(5 * scale)))
    exact = _float64(student.detach().cpu().numpy()[:4], ranks.cpu().numpy()[:4])
    found = float(grkd(student[:4], ranks=ranks[:4], reduction="sum").detach())
    pairs = batch * classes * (classes - 1) / 2
    record = {
        "batch": batch,
        "classes": classes,
        "ms": spread([1000 * value for value in seconds["kdpipe"]]),
        "broadcasting / kdpipe": ratios(seconds, "broadcast", "kdpipe"),
        "broadcasting / kdpipe in plain torch": ratios(seconds, "broadcast", "plain torch"),
        "billion pairs a second": pairs / spread(seconds["kdpipe"])["median"] / 1e9,
        "relative error of the loss": abs(found - exact) / exact,
    }
    if device.type == "cuda":
        rate = pairs / spread(seconds["kdpipe"])["median"]
        record["fraction of the chip's rate of reciprocals"] = _RECIPROCALS_A_PAIR * rate / _reciprocals_a_second()
    if device.type == "cpu":
        for name in ("kdpipe", "broadcast"):
            record[f"extra memory of {name}, in (B, C) float32"] = in_child(_memory, name, batch, classes)
    return record


def _reciprocals_a_second() -> float:
    """What bounds the kernel on a GPU: its special function units, at the highest clock."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    megahertz = float(subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0])
    return torch.cuda.get_device_properties(0).multi_processor_count * _RECIPROCAL_UNITS * megahertz * 1e6


def _memory(name: str, batch: int, classes: int) -> float:
    student, _, ranks = _inputs(batch, classes, torch.device("cpu"))
    grkd(student[:2], ranks=ranks[:2]).backward()  # what is loaded and compiled does not count
    with anonymous_memory() as peak:
        loss = grkd(student, ranks=ranks) if name == "kdpipe" else broadcast(student, ranks)
        loss.backward()
    return peak() / (4 * batch * classes)


def _float64(student: np.ndarray, ranks: np.ndarray) -> float:
    scores = np.take_along_axis(student.astype(np.float64), ranks, 1)
    return sum(float(np.logaddexp(0, row[i + 1 :] - row[i]).sum()) for row in scores for i in range(len(row))) / len(
        scores
    )


def _softmaxes(batch: int, classes: int, device: torch.device, scale: float) -> dict[str, Any]:
    student, teacher, _ = _inputs(batch, classes, device)
    groups = torch.arange(classes, device=device) * 3 // classes
    repeats = 50

    def many(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(repeats):
                student.grad = None
                loss().backward()
            _wait(device)

        return run

    other = teacher.clone().requires_grad_()

    def both() -> Tensor:
        other.grad = None
        return other.log_softmax(1).sum() + student.log_softmax(1).sum()

    candidates = {
        "two log-softmaxes": many(both),
        "kd": many(lambda: kd(student, teacher)),
        "ltkd": many(lambda: ltkd(student, teacher, groups)),
    }
    seconds = take_turns(candidates, max(5, int(15 * scale)))
    return {
        "batch": batch,
        "classes": classes,
        "ms of two log-softmaxes": spread([1000 * value / repeats for value in seconds["two log-softmaxes"]]),
        "kd / two log-softmaxes": ratios(seconds, "kd", "two log-softmaxes"),
        "ltkd / two log-softmaxes": ratios(seconds, "ltkd", "two log-softmaxes"),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    for record in run(0.6):
        print(record)

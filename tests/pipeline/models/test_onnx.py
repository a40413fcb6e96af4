"""ONNX teachers, against numpy in float64 and the files' own words."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import ExtractConfig, distill, extract
from kdpipe.pipeline.config import DistillConfig
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.models import OnnxNetwork, load_model
from kdpipe.pipeline.specs import Spec
from kdpipe.pipeline.teachers import load_teacher
from kdpipe.stores import open_store
from kdpipe.stores.errors import BadLogitsError, KdpipeError, MissingExtraError, UsageError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WEIGHT = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
FLOAT, HALF, INT64 = 1, 10, 7


def make(path: Path, *, batch: Any = "batch", nodes: Any = None, outputs: Any = ("logits",), kind: int = FLOAT,
         inputs: Any = ("images",), weight: Any = None) -> Path:  # fmt: skip
    """A file: flattened 8x8 images times WEIGHT."""
    helper = onnx.helper
    nodes = nodes or [("Flatten", ["images"], ["flat"]), ("MatMul", ["flat", "weight"], ["logits"])]
    stored = weight or onnx.numpy_helper.from_array(WEIGHT.astype(np.float16 if kind == HALF else np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes], "graph",
        [helper.make_tensor_value_info(name, kind, [batch, 1, 8, 8]) for name in inputs],
        [helper.make_tensor_value_info(name, kind, [batch, 10]) for name in outputs],
        [stored],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


SOFTMAX = [
    ("Flatten", ["images"], ["flat"]),
    ("MatMul", ["flat", "weight"], ["logits"]),
    ("Softmax", ["logits"], ["probabilities"]),
]


def load(path: Path, **options: str) -> OnnxNetwork:
    module = load_model(Spec("onnx", str(path), options), num_classes=10, in_channels=1).module
    assert isinstance(module, OnnxNetwork)
    return module


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def expected(inputs: torch.Tensor) -> np.ndarray:
    return inputs.flatten(1).double().numpy() @ WEIGHT.astype(np.float64)


@pytest.mark.parametrize("batch", ["batch", None, 1, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_every_batch_size_whatever_the_file_fixes(tmp_path: Path, batch: Any, count: int) -> None:
    inputs = images(count)
    logits = load(make(tmp_path / "t.onnx", batch=batch))(inputs)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), expected(inputs), rtol=1e-5, atol=1e-5)


def test_a_file_in_half_precision_takes_the_same_inputs(tmp_path: Path) -> None:
    network = load(make(tmp_path / "t.onnx", kind=HALF))
    assert network.precision == "fp16"
    np.testing.assert_allclose(network(images(3)).float().numpy(), expected(images(3)), rtol=0.02, atol=0.02)


def test_what_the_file_is(tmp_path: Path) -> None:
    path = make(tmp_path / "t.onnx")
    network = load(path)
    assert network.checksum == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert (network.num_parameters, network.precision, str(network.device)) == (640, "fp32", "cpu")
    assert network.eval() is network


def test_the_store_says_what_ran(tmp_path: Path) -> None:
    path, out = make(tmp_path / "t.onnx"), tmp_path / "d.kd"
    extract(ExtractConfig(data="digits", teacher=f"onnx:{path}", out=out, codec="float32"))
    store = open_store(out)
    teacher = store.manifest.teacher
    assert store.manifest.precision == "fp32/onnx"
    assert teacher.checksum == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert teacher.num_parameters == 640
    assert teacher.libraries["onnxruntime"] == sys.modules["onnxruntime"].__version__
    samples = load_data("digits")
    inputs = torch.stack([samples.raw(i) for i in range(len(samples))]).float() / 255
    read = store.read(np.arange(len(samples)), arrays=("logits",))["logits"]
    np.testing.assert_allclose(read, expected(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"precision": "bf16"}, "computes in the precision of the network"),
        ({"runtime": "compile"}, "Leave --runtime out"),
    ],
)
def test_what_onnxruntime_does_not_have_is_refused(tmp_path: Path, settings: Any, problem: str) -> None:
    path = make(tmp_path / "t.onnx")
    with pytest.raises(UsageError, match=problem):
        extract(ExtractConfig(data="digits", teacher=f"onnx:{path}", out=tmp_path / "d.kd", **settings))
    assert not (tmp_path / "d.kd").exists()


def test_one_of_several_outputs_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "t.onnx", nodes=SOFTMAX, outputs=("probabilities", "logits"))
    with pytest.raises(UsageError, match=r"2 outputs.*output=probabilities \| logits"):
        load(path)
    with pytest.raises(UsageError, match=r"Unknown output of .*'logit'. Did you mean 'logits'"):
        load(path, output="logit")
    np.testing.assert_allclose(
        load(path, output="logits")(images(2)).numpy(), expected(images(2)), rtol=1e-5, atol=1e-5
    )


def test_probabilities_are_logged_and_never_taken_for_logits(tmp_path: Path) -> None:
    path = make(tmp_path / "t.onnx", nodes=SOFTMAX, outputs=("probabilities",))
    with pytest.raises(UsageError, match=r"is a softmax: probabilities, not logits. Add log=true"):
        load(path)
    inputs = images(5)
    probabilities = np.exp(expected(inputs))
    probabilities /= probabilities.sum(1, keepdims=True)
    np.testing.assert_allclose(load(path, log="true")(inputs).numpy(), np.log(probabilities), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(load(path, log="false")(inputs).numpy(), probabilities, rtol=1e-4, atol=1e-6)


def test_a_probability_of_zero_has_a_finite_logarithm(tmp_path: Path) -> None:
    path = make(tmp_path / "t.onnx", nodes=SOFTMAX, outputs=("probabilities",))
    logits = load(path, log="true")(images(2) * 1000)
    assert logits.isfinite().all()
    assert logits.min().item() == pytest.approx(np.log(np.finfo(np.float32).tiny))


def test_logits_have_no_logarithm(tmp_path: Path) -> None:
    with pytest.raises(BadLogitsError, match=r"gives no probabilities. Drop log=true"):
        load(make(tmp_path / "t.onnx"), log="true")(images(2))


def test_without_a_build_for_the_gpu_it_runs_on_the_cpu_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if "CUDAExecutionProvider" in sys.modules["onnxruntime"].get_available_providers():
        pytest.skip("onnxruntime was built for the GPU")
    teacher = load_teacher(
        f"onnx:{make(tmp_path / 't.onnx')}",
        load_data("digits"),
        preprocess=None,
        device=torch.device("cuda"),
        precision="fp16",
    )
    assert (str(teacher.device), teacher.precision, teacher.runtime) == ("cpu", "fp32", "onnx")
    assert "the teacher runs on the CPU" in caplog.text
    np.testing.assert_allclose(teacher.logits(images(3), 10).numpy(), expected(images(3)), rtol=1e-5, atol=1e-5)


def test_inputs_that_do_not_fit_are_told_apart(tmp_path: Path) -> None:
    samples = load_data("digits")
    teacher = load_teacher(
        f"onnx:{make(tmp_path / 't.onnx')}", samples, preprocess=None, device=torch.device("cpu"), precision="fp32"
    )
    with pytest.raises(KdpipeError, match=r"\(2, 3, 8, 8\): the input 'images' of the file is \(batch, 1, 8, 8\)"):
        teacher.logits(torch.rand(2, 3, 8, 8), 10)
    with pytest.raises(KdpipeError, match=r"is torch\.float32, this is torch\.int64"):
        teacher.logits(torch.zeros(2, 1, 8, 8, dtype=torch.int64), 10)


def test_several_inputs_and_unknown_options_are_refused(tmp_path: Path) -> None:
    nodes = [
        ("Add", ["images", "more"], ["sum"]),
        ("Flatten", ["sum"], ["flat"]),
        ("MatMul", ["flat", "weight"], ["logits"]),
    ]
    with pytest.raises(UsageError, match=r"2 inputs \(images, more\)"):
        load(make(tmp_path / "t.onnx", nodes=nodes, inputs=("images", "more")))
    with pytest.raises(UsageError, match="Did you mean 'output'"):
        load(make(tmp_path / "u.onnx"), outputs="logits")


@pytest.mark.parametrize("content", [b"", b"none" * 99, None])
def test_a_damaged_file(tmp_path: Path, content: bytes | None, capfd: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "t.onnx")
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(KdpipeError, match="cannot be read as an ONNX model"):
        load(path)
    assert capfd.readouterr().err == ""


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(UsageError, match="There is no ONNX file"):
            load(path)


def test_an_operator_nobody_knows(tmp_path: Path) -> None:
    nodes = [("Flatten", ["images"], ["flat"]), ("Conjure", ["flat", "weight"], ["logits"])]
    with pytest.raises(KdpipeError, match="operators that this onnxruntime lacks"):
        load(make(tmp_path / "t.onnx", nodes=nodes))


def outside(location: str) -> Any:
    """The weight as a tensor that lies in another file."""
    tensor = onnx.TensorProto(name="weight", data_type=FLOAT, dims=WEIGHT.shape, data_location=1)
    for key, value in (("location", location), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_weights_beside_the_model_count_in_its_checksum(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    path = make(tmp_path / "t.onnx", weight=outside("w.bin"))
    network = load(path)
    np.testing.assert_allclose(network(images(2)).numpy(), expected(images(2)), rtol=1e-5, atol=1e-5)
    (tmp_path / "w.bin").write_bytes((WEIGHT + 1).tobytes())
    assert load(path).checksum != network.checksum
    (tmp_path / "w.bin").unlink()
    with pytest.raises(KdpipeError, match=r"w\.bin, which is not there"):
        load(path)


@pytest.mark.parametrize("location", ["../w.bin", "{folder}/w.bin", "link.bin"])
def test_weights_outside_the_model_s_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to("../w.bin")
    path = make(folder / "t.onnx", weight=outside(location.format(folder=tmp_path)))
    with pytest.raises(UsageError, match="weights outside its folder"):
        load(path)


def test_a_student_cannot_be_an_onnx_file(tmp_path: Path) -> None:
    path = make(tmp_path / "t.onnx")
    with pytest.raises(UsageError, match="cannot be trained: an ONNX file can only be run"):
        distill(DistillConfig(student=f"onnx:{path}", data="digits", out=tmp_path / "run"))


def test_without_the_libraries_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "t.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"kdpipe\[onnx\]"):
        load(path)

"""An import that fails for CUDA's sake is a fault of the environment, explained, and not tried again."""

from __future__ import annotations

import pytest

from cairn_scheduler.causes import Evidence, classify
from cairn_scheduler.model import Cause


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ImportError: libcudart.so.12: cannot open shared object file", "is missing"),
        ("OSError: libcublasLt.so.11: cannot open shared object file", "is missing"),
        ("ImportError: libcudnn.so.9: cannot open shared object file", "is missing"),
        ("ImportError: libfoo.so.1: cannot open shared object file", "missing or of another"),
        ("RuntimeError: The NVIDIA driver on your system is too old (found", "older than this CUDA"),
        ("RuntimeError: CUDA error: CUDA driver version is insufficient for", "older than"),
        ("the provided PTX was compiled with an unsupported toolchain.", "older than"),
        ("RuntimeError: CUDA error: no kernel image is available for execution on", "kind of GPU"),
        ("ImportError: /x/torch/lib/libtorch_cuda.so: undefined symbol: ncclCommRegister", "NCCL of another"),
        ("ImportError: /x/libcusparse.so.12: undefined symbol: __nvJitLinkAddData_12_1, version",
         "different versions of CUDA"),
        ("RuntimeError: PyTorch and torchvision were compiled with different CUDA major versions.",
         "different versions of CUDA"),
        ("RuntimeError: operator torchvision::nms does not exist", "different versions of CUDA"),
        ("ImportError: /x/ext.so: undefined symbol: _ZN3c105ErrorC2E", "different versions"),
        ("Loaded runtime CuDNN library: 8.2.1 but source was compiled with: 8.6.0.", "different versions"),
        ("ModuleNotFoundError: No module named 'torch'", "cairn.env.requirements"),
    ],
)  # fmt: skip
def test_it_is_explained(line: str, told: str) -> None:
    lines = ("Traceback (most recent call last):", '  File "train.py", line 1, in <module>', line)
    ending = classify(Evidence(exit_code=1, last_lines=lines), asked=None)
    assert ending.cause is Cause.USER_ERROR
    assert told in ending.message.split("Last lines:")[0]
    assert line in ending.message, "the words themselves are kept"
    assert ending.hopeless

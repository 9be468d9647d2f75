"""GPUs as NVML sees them, through the driver's own library; without it there are none."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

_GIB = 2**30
_TEMPERATURE_GPU = 0


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpus:
    """Some of the machine's GPUs, by NVML's numbers (or all of them)."""

    def __init__(self, numbers: Sequence[int] | None = None) -> None:
        self._library = _open()
        self._handles: dict[int, ctypes.c_void_p] = {}
        if self._library is None:
            return
        for number in self._all() if numbers is None else numbers:
            handle = ctypes.c_void_p()
            if self._library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)) == 0:
                self._handles[number] = handle

    @property
    def numbers(self) -> list[int]:
        """Those that answer."""
        return list(self._handles)

    def sample(self) -> dict[str, float]:
        """`gpu0/util` in percent, `gpu0/memory` in GiB, `gpu0/memory_percent`, `gpu0/temperature` in degrees
        Celsius, `gpu0/power` in watts; what a GPU does not tell is left out."""
        found: dict[str, float] = {}
        for number, handle in self._handles.items():
            found |= {f"gpu{number}/{name}": value for name, value in self._one(handle).items()}
        return found

    def _one(self, handle: ctypes.c_void_p) -> dict[str, float]:
        library = self._library
        assert library is not None, "no handle without it"
        found: dict[str, float] = {}
        use, memory, number = _Utilization(), _Memory(), ctypes.c_uint()
        if library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(use)) == 0:
            found["util"] = float(use.gpu)
        if library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 and memory.total:
            found["memory"] = memory.used / _GIB
            found["memory_percent"] = 100 * memory.used / memory.total
        if library.nvmlDeviceGetTemperature(handle, _TEMPERATURE_GPU, ctypes.byref(number)) == 0:
            found["temperature"] = float(number.value)
        if library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(number)) == 0:
            found["power"] = number.value / 1000
        return found

    def _all(self) -> range:
        count = ctypes.c_uint()
        assert self._library is not None
        return range(count.value if self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0)


def _open() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None

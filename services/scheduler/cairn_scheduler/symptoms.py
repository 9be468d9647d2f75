"""What programs print when something known ends them: the cause behind it, and what to do. A table. Pure.

The exit code of a Python program that died of a full GPU and of one with a typo is the same 1; what it
printed last tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cairn_scheduler.model import Cause

# A message stands in the first part of its line; more is not searched.
_MOST_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Symptom:
    """A message that is known. `told` explains it in one sentence and says what helps."""

    name: str
    pattern: re.Pattern[str]
    cause: Cause
    told: str
    # It tells that another rank is gone: that one's own end says more.
    echo: bool = False
    # It means this only where there are other ranks.
    among_ranks: bool = False
    # The same attempt would end the same way: never tried again, whatever the policy.
    hopeless: bool = False


def find(lines: Iterable[str], *, ranks: int = 1) -> Symptom | None:
    """What the last printed lines show: the last known message; an echo only where nothing else is."""
    echo = None
    for line in reversed([line[:_MOST_TEXT] for line in lines]):
        for symptom in SYMPTOMS:
            if (symptom.among_ranks and ranks < 2) or not symptom.pattern.search(line):
                continue
            if not symptom.echo:
                return symptom
            echo = echo or symptom
    return echo


def _symptom(name: str, pattern: str, cause: Cause, told: str, **flags: bool) -> Symptom:
    return Symptom(name, re.compile(pattern), cause, told, **flags)


# Of two that fit one line the upper one counts.
SYMPTOMS: tuple[Symptom, ...] = (
    # The place where it ran was taken away.
    _symptom(
        "slurm_preempted",
        r"CANCELLED AT .* DUE TO PREEMPTION",
        Cause.PREEMPTED,
        "The cluster took the place for another job; it goes on when there is one again.",
    ),
    _symptom(
        "slurm_node_failure",
        r"CANCELLED AT .* DUE TO NODE FAILURE|\bNODE_FAIL\b",
        Cause.INFRA,
        "The node failed under it.",
    ),
    _symptom(
        "slurm_time_limit",
        r"CANCELLED AT .* DUE TO TIME LIMIT",
        Cause.TIMEOUT,
        "The cluster's own time limit ended it: ask for a partition that allows more, or save "
        "checkpoints and run in parts.",
    ),
    _symptom(
        "spot_reclaimed",
        r"(?i)spot (instance|vm|machine)\b.*\b(interrupt|reclaim|terminat)|instance preempted",
        Cause.SPOT,
        "The provider took its spot machine back.",
    ),
    # Memory: of a GPU, of the machine, of /dev/shm.
    _symptom(
        "cuda_oom",
        r"(torch\.(cuda\.)?OutOfMemoryError|(CUDA|HIP) out of memory|CUDA error: out of memory"
        r"|CUBLAS_STATUS_ALLOC_FAILED|CUDA_ERROR_OUT_OF_MEMORY|RESOURCE_EXHAUSTED: Out of memory)",
        Cause.OOM,
        "The GPU's memory was not enough: use a smaller batch, gradient accumulation or checkpointing, "
        "a lower precision, or a GPU with more memory.",
    ),
    _symptom(
        "slurm_oom",
        r"(?i)detected \d+ oom[-_]kill event|oom_kill event in StepId|Out Of Memory\b.*slurm",
        Cause.OOM,
        "The cluster's memory limit ended it: ask for more with `resources.memory`.",
    ),
    _symptom(
        "shared_memory",
        r"killed by signal: Bus error|insufficient shared memory \(shm\)|unable to (open|write to"
        r"|mmap) (file|shared memory).*(shm|torch_)|unable to open shared memory object",
        Cause.OOM,
        "The shared memory (/dev/shm) was too small for the data loader's workers: use fewer workers, call "
        "torch.multiprocessing.set_sharing_strategy('file_system'), or give the container a larger shm "
        "size.",
    ),
    _symptom(
        "worker_killed",
        r"DataLoader worker \(pid.*\) is killed by signal: Killed"
        r"|A process in the process pool was terminated abruptly",
        Cause.OOM,
        "A worker process was killed, most likely for want of memory: ask for more with "
        "`resources.memory`, or use fewer workers.",
    ),
    _symptom(
        "host_oom",
        r"^(numpy\.\S*)?(MemoryError|_ArrayMemoryError)\b|DefaultCPUAllocator: (can't|not enough)"
        r"|std::bad_alloc|\[Errno 12\] Cannot allocate memory"
        r"|Unable to allocate \S+ \w+ for an array",
        Cause.OOM,
        "The machine's memory was not enough: ask for more with `resources.memory`, or load less at once.",
    ),
    # Disk. A new machine has a disk of the same size.
    _symptom(
        "disk_full",
        r"No space left on device|Disk quota exceeded",
        Cause.USER_ERROR,
        "The disk was full: write less (old checkpoints, caches in /tmp), or ask for more with "
        "`resources.disk_size`.",
    ),
    # What the program does wrong on the GPU.
    _symptom(
        "device_assert",
        r"device-side assert triggered",
        Cause.USER_ERROR,
        "A check on the GPU failed, most often an index or a label out of range: run it with "
        "CUDA_LAUNCH_BLOCKING=1, or on the CPU, to see the line.",
    ),
    _symptom(
        "illegal_access",
        r"CUDA error: (an illegal memory access|misaligned address|invalid device function"
        r"|invalid configuration argument|invalid argument)",
        Cause.USER_ERROR,
        "A GPU kernel did what it must not (memory out of range, wrong arguments): run it with "
        "CUDA_LAUNCH_BLOCKING=1 to see which.",
    ),
    # An environment that cannot work here.
    _symptom(
        "driver_too_old",
        r"(CUDA )?driver version is insufficient|NVIDIA driver on your system is too old"
        r"|forward compatibility was attempted on non supported HW|CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
        r"|provided PTX was compiled with an unsupported toolchain",
        Cause.USER_ERROR,
        "The machine's NVIDIA driver is older than this CUDA needs: install a torch built for an older "
        "CUDA, or run on a machine with a newer driver.",
        hopeless=True,
    ),
    _symptom(
        "no_driver",
        r"Found no NVIDIA driver|libcuda\.so\.1: cannot open|No CUDA GPUs are available"
        r"|Torch not compiled with CUDA enabled|no CUDA-capable device is detected",
        Cause.USER_ERROR,
        "It asks for CUDA, and there is no GPU for it (or torch is a CPU build): ask for one with "
        "`resources.accelerators`, and install torch with CUDA.",
        hopeless=True,
    ),
    _symptom(
        "no_kernel_image",
        r"no kernel image is available for execution|is not compatible with the current PyTorch",
        Cause.USER_ERROR,
        "This torch was not built for this kind of GPU: install a newer build, or ask for another GPU.",
        hopeless=True,
    ),
    _symptom(
        "nccl_mismatch",
        r"undefined symbol: nccl\w+|libnccl\S*: (version|cannot open)|NCCL version mismatch",
        Cause.USER_ERROR,
        "This torch meets an NCCL of another version than it was built with: take other copies of libnccl "
        "out of LD_LIBRARY_PATH, and install torch with the `nvidia-nccl-cu*` that it asks for.",
        hopeless=True,
    ),
    _symptom(
        "mixed_cuda",
        r"undefined symbol: __nvJitLink|version `?'?libnvJitLink"
        r"|compiled with different CUDA (major )?versions|operator torchvision::nms does not exist"
        r"|but source was compiled with: \d|jaxlib version \S+ is (newer|older)"
        r"|undefined symbol: _ZN(K?3c10|2at|5torch)",
        Cause.USER_ERROR,
        "Packages that were built for different versions of CUDA or torch meet here: install torch and all "
        "that builds on it (torchvision, extensions) in one go from one index, and keep other CUDA folders "
        "out of LD_LIBRARY_PATH.",
        hopeless=True,
    ),
    _symptom(
        "missing_library",
        r"lib(cudart|cublas\w*|cudnn\w*|cufft|curand|cusparse\w*|cusolver\w*|nvrtc|nvJitLink|cupti)\S*"
        r": cannot open shared object",
        Cause.USER_ERROR,
        "A library of CUDA is missing: the package was built for a CUDA that is not installed. Install torch "
        "(or jax[cuda12]) from PyPI, which brings its own, or a build for the CUDA that is there.",
        hopeless=True,
    ),
    _symptom(
        "missing_shared_object",
        r"ImportError: lib\S+\.so\S*: cannot open shared object|undefined symbol: \S*(cu|nccl"
        r"|cublas)",
        Cause.USER_ERROR,
        "A library that a package needs is missing or of another version: install packages that belong "
        "together in one go (torch with its own CUDA).",
        hopeless=True,
    ),
    _symptom(
        "missing_module",
        r"^ModuleNotFoundError: No module named",
        Cause.USER_ERROR,
        "A module is not installed: name it in `cairn.env.requirements` (`cairn run --requirements FILE`), "
        "or install it in `setup`.",
        hopeless=True,
    ),
    _symptom(
        "waited_for_input",
        r"^EOFError: EOF when reading a line|stdin is not a (tty|terminal)"
        r"|the input device is not a TTY|^Aborted!?$|\[Y/n\] ?Abort\.$|could not read (Username|Password) for"
        r"|Host key verification failed",
        Cause.USER_ERROR,
        "It waited for input, and a job has none: answer in advance with an option (such as -y), a "
        "variable or a file.",
        hopeless=True,
    ),
    # Machines that fail.
    _symptom(
        "gpu_hardware",
        r"(?i)uncorrectable (NVLink |ECC )?error|\bECC error|GPU has fallen off the bus|NVRM: Xid"
        r"|\bXid \(?[\w:.]*\)?:? ?\d+|CUDA_ERROR_ECC_UNCORRECTABLE|NVLink error|row[- ]remap\w* fail",
        Cause.INFRA,
        "The GPU itself failed (ECC, Xid or NVLink): another machine may do better.",
    ),
    _symptom(
        "launch_failure",
        r"(?i)CUDA error: (unspecified launch failure|unknown error|hardware stack error"
        r"|the launch timed out and was terminated|an? (exception|uncontained) )"
        r"|CUDA_ERROR_LAUNCH_FAILED",
        Cause.INFRA,
        "The GPU stopped in the middle of a kernel, which failing hardware does, and now and then a "
        "bug in a kernel.",
    ),
    _symptom(
        "gpu_busy",
        r"all CUDA-capable devices are busy or unavailable|CUDA driver initialization failed"
        r"|CUDA error: initialization error|system not yet initialized|CUDA_ERROR_SYSTEM_NOT_READY",
        Cause.INFRA,
        "The GPU could not be used: somebody else holds it, or its driver is not ready.",
    ),
    _symptom(
        "io_error",
        r"\[Errno 5\]|Input/output error|Stale file handle|Transport endpoint is not connected"
        r"|Read-only file system",
        Cause.INFRA,
        "A disk or a network file system failed under it.",
    ),
    # Echoes: somebody else was gone first.
    _symptom(
        "nccl_timeout",
        r"(?i)watchdog caught collective operation timeout|collective operation timeout"
        r"|nccl.*(timed out|timeout)|monitoredBarrier.*(timed out|timeout)"
        r"|Timed out waiting \d+ms for (recv|send)",
        Cause.INFRA,
        "Ranks waited for each other until the time was over: one hung or was gone, or the network "
        "between them was. If it comes again at the same step, not all ranks call the same operations.",
        echo=True,
    ),
    _symptom(
        "rank_gone",
        r"ncclRemoteError|ncclSystemError|remote process exited|NCCL error"
        r"|NCCL communicator was aborted|gloo/transport/.*(closed|reset|refused|failed)"
        r"|DistNetworkError|DistBackendError|failed to recv|recvValue failed"
        r"|Connection closed by (remote )?peer|TCPStore|socketProgress|socketPollConnect",
        Cause.INFRA,
        "The connection to another rank was lost.",
        echo=True,
    ),
    _symptom(
        "peer_reset",
        r"Connection reset by peer|Connection refused|Broken pipe|Socket Timeout"
        r"|Connection timed out",
        Cause.INFRA,
        "The connection to another rank was lost.",
        echo=True,
        among_ranks=True,
    ),
)

"""What programs print last, and what is made of it; whose end was first; how often it is tried again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cairn_scheduler import symptoms
from cairn_scheduler.causes import Evidence, classify, first, retry_after, within
from cairn_scheduler.model import Attempt, AttemptState, Cause, Ending, Spec

GLOO = "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:5"
CUDA_OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity"
)


@pytest.mark.parametrize(
    ("line", "name", "cause"),
    [
        (CUDA_OOM, "cuda_oom", Cause.OOM),
        ("RuntimeError: CUDA error: out of memory", "cuda_oom", Cause.OOM),
        ("jaxlib.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying", "cuda_oom", Cause.OOM),
        ("RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"
         " dataloader's workers are out of shared memory.", "shared_memory", Cause.OOM),
        ("RuntimeError: DataLoader worker (pid 41) is killed by signal: Killed.", "worker_killed", Cause.OOM),
        ("MemoryError", "host_oom", Cause.OOM),
        ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 8.00 GiB for an array", "host_oom",
         Cause.OOM),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", "slurm_oom", Cause.OOM),
        ("OSError: [Errno 28] No space left on device", "disk_full", Cause.USER_ERROR),
        ("RuntimeError: CUDA error: device-side assert triggered", "device_assert", Cause.USER_ERROR),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "illegal_access",
         Cause.USER_ERROR),
        ("RuntimeError: CUDA error: unspecified launch failure", "launch_failure", Cause.INFRA),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "gpu_hardware", Cause.INFRA),
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.", "gpu_hardware", Cause.INFRA),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", "gpu_busy", Cause.INFRA),
        ("RuntimeError: Found no NVIDIA driver on your system.", "no_driver", Cause.USER_ERROR),
        ("AssertionError: Torch not compiled with CUDA enabled", "no_driver", Cause.USER_ERROR),
        ("ImportError: libcudart.so.12: cannot open shared object file: No such file", "missing_library",
         Cause.USER_ERROR),
        ("ModuleNotFoundError: No module named 'torch'", "missing_module", Cause.USER_ERROR),
        ("EOFError: EOF when reading a line", "waited_for_input", Cause.USER_ERROR),
        ("Do you want to continue? [Y/n] Abort.", "waited_for_input", Cause.USER_ERROR),
        ("fatal: could not read Username for 'https://github.com': No such device or address",
         "waited_for_input", Cause.USER_ERROR),
        ("[rank0]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5)", "nccl_timeout",
         Cause.INFRA),
        ("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3, ncclRemoteError",
         "rank_gone", Cause.INFRA),
        (GLOO, "rank_gone", Cause.INFRA),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***",
         "slurm_preempted", Cause.PREEMPTED),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO NODE FAILURE, SEE",
         "slurm_node_failure", Cause.INFRA),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***",
         "slurm_time_limit", Cause.TIMEOUT),
        ("OSError: [Errno 116] Stale file handle", "io_error", Cause.INFRA),
    ],
)  # fmt: skip
def test_a_known_line_has_its_cause_and_a_sentence(line: str, name: str, cause: Cause) -> None:
    found = symptoms.find(["epoch 1", line, "wandb: done"])
    assert found is not None
    assert (found.name, found.cause) == (name, cause)
    ending = classify(Evidence(exit_code=1, last_lines=("epoch 1", line)), asked=None)
    assert ending.cause is cause
    assert found.told.rstrip(".").split(" ")[-1] in ending.message


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: x", "requests.exceptions.ConnectionError: Connection reset by peer", "loss nan",
        "epoch 7 step 12 memory 3 GiB", "KeyError: 'image'", "out of memory is not what happened",
        "Aborted (core dumped) tests: 0", "error rate 79", "broken pipe dream",
    ],
)  # fmt: skip
def test_other_lines_are_nobodys(line: str) -> None:
    assert symptoms.find([line]) is None


def test_every_sentence_says_something_and_every_name_is_one() -> None:
    assert len({one.name for one in symptoms.SYMPTOMS}) == len(symptoms.SYMPTOMS)
    for one in symptoms.SYMPTOMS:
        assert one.told.endswith(".")
        assert 20 < len(one.told) < 230


def test_the_last_known_line_counts_and_echoes_come_last() -> None:
    found = symptoms.find([CUDA_OOM, GLOO, "ConnectionResetError: Connection reset by peer"], ranks=2)
    assert found is not None
    assert found.name == "cuda_oom"


def test_what_was_printed_does_not_explain_a_kill_from_outside() -> None:
    ending = classify(Evidence(signal=9, last_lines=(CUDA_OOM,)), asked=None)
    assert ending.cause is Cause.INFRA


def test_the_killer_of_a_worker_is_the_kernels() -> None:
    line = "RuntimeError: DataLoader worker (pid 41) is killed by signal: Killed."
    told = classify(
        Evidence(exit_code=1, oom_kills=1, last_lines=(line,), memory_peak=15 << 30, memory_limit=16 << 30),
        asked=None,
    )
    assert told.cause is Cause.OOM
    assert "held 15.0 GiB of 16.0 GiB" in told.message


ASKED = Evidence(rank=1, exit_code=None, signal=15, asked=True)


@pytest.mark.parametrize(
    ("evidence", "rank"),
    [
        # The first to die is the cause, whatever the others print of it.
        (Evidence(rank=1, signal=9, ranks=2, others=(Evidence(exit_code=1, last_lines=(GLOO,)),)), 1),
        # Both were seen at once, the echo before the death itself.
        (Evidence(rank=0, exit_code=1, last_lines=(GLOO,), ranks=2, others=(Evidence(rank=1, signal=9),)), 1),
        # The real one took longer to end: it was told to by then.
        (
            Evidence(
                rank=0, exit_code=1, last_lines=(GLOO,), ranks=3,
                others=(replace(ASKED, rank=2), Evidence(rank=1, exit_code=1, asked=True,
                                                         last_lines=(CUDA_OOM,))),
            ),
            1,
        ),
        # Nobody has a reason of its own.
        (Evidence(rank=0, exit_code=1, last_lines=(GLOO,), ranks=2, others=(ASKED,)), 0),
        # A reason of its own at the first.
        (Evidence(rank=0, exit_code=1, last_lines=("KeyError: 1",), ranks=2, others=(ASKED,)), 0),
    ],
)  # fmt: skip
def test_the_first_cause_is_that_of_the_attempt(evidence: Evidence, rank: int) -> None:
    assert first(evidence).rank == rank
    assert f"ank {rank}" in classify(evidence, asked=None).message


def test_ranks_that_only_lost_each_other_are_tried_again() -> None:
    evidence = Evidence(exit_code=1, last_lines=("Connection reset by peer",), ranks=2)
    assert classify(evidence, asked=None).cause is Cause.INFRA
    assert classify(replace(evidence, ranks=1), asked=None).cause is Cause.USER_ERROR


def test_what_a_cluster_says_of_the_place_counts() -> None:
    assert classify(Evidence(signal=15, taken=Cause.SPOT), asked=None).cause is Cause.SPOT
    assert classify(Evidence(lost=True, taken=Cause.PREEMPTED), asked=None).cause is Cause.PREEMPTED
    assert classify(Evidence(exit_code=0, taken=Cause.SPOT), asked=None).cause is None
    lost = classify(Evidence(lost=True, last_seen=0.0), asked=None)
    assert "00:00:00 UTC" in lost.message


def test_no_text_holds_what_a_database_refuses() -> None:
    ending = classify(Evidence(exit_code=1, last_lines=("a\0b\x1b[31mred\x07\ud800",)), asked=None)
    assert not set(ending.message) & {"\0", "\x1b", "\x07", "\ud800"}
    assert "red" in ending.message


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ending(cause: Cause | None, *, ran: float = 1.0, hopeless: bool = False) -> Ending:
    return Ending(cause, "", 1, 0, NOW, NOW + timedelta(seconds=ran), hopeless=hopeless)


def attempt(cause: Cause, *, ran: float = 1.0) -> Attempt:
    end = NOW + timedelta(seconds=ran)
    return Attempt("u", 1, AttemptState.FAILED, "local", NOW, cause=cause, start_time=NOW, end_time=end)


SPEC = Spec(task="", setup="", run="x", max_retries=2, retries={Cause.SPOT: 20, Cause.OOM: 1, Cause.LOST: 0})


@pytest.mark.parametrize(
    ("end", "before", "seconds"),
    [
        (ending(None), [], None),
        (ending(Cause.USER_ERROR), [], None),
        (ending(Cause.TIMEOUT), [], None),
        (ending(Cause.INFRA), [], 1),
        (ending(Cause.INFRA), [attempt(Cause.INFRA)], 2),
        (ending(Cause.INFRA), [attempt(Cause.INFRA)] * 2, None),
        (ending(Cause.INFRA), [attempt(Cause.SPOT)] * 9, 300),
        (ending(Cause.SPOT), [attempt(Cause.SPOT)] * 19, 300),
        (ending(Cause.SPOT), [attempt(Cause.SPOT)] * 20, None),
        (ending(Cause.OOM), [], 1),
        (ending(Cause.OOM), [attempt(Cause.OOM)], None),
        (ending(Cause.LOST), [], None),
        # A long life in between: the back-off begins anew.
        (ending(Cause.SPOT), [attempt(Cause.SPOT)] * 5 + [attempt(Cause.SPOT, ran=3600)], 1),
        (ending(Cause.SPOT, ran=3600), [attempt(Cause.SPOT)] * 5, 1),
        # What cannot be helped is not tried again, whatever the policy says.
        (ending(Cause.SPOT, hopeless=True), [], None),
    ],
)
def test_each_cause_has_its_allowance_and_back_off(
    end: Ending, before: list[Attempt], seconds: float | None
) -> None:
    wait = retry_after(end, spec=SPEC, attempts=before)
    assert (wait.total_seconds() if wait else None) == seconds


def test_times_of_a_wrong_clock_are_brought_to_what_is_possible() -> None:
    later = NOW + timedelta(minutes=5)
    wrong = Ending(None, "", 0, 0, datetime.fromtimestamp(0, UTC), NOW + timedelta(days=400))
    assert within(wrong, begun=NOW, now=later) == replace(wrong, start_time=NOW, end_time=later)
    right = ending(None)
    assert within(right, begun=NOW, now=later) == right

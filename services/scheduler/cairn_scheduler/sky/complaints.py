"""What SkyPilot complains of, in one line, and what to do about it, in another. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 300
_REGION = re.compile(r"Slurm\(.*?\bregion=([A-Za-z0-9_.-]+)")
_CONFIG = "~/.slurm/config of SkyPilot's API server"

# What a complaint says, what it means, and what to do; {0} is its first group,
# {host} the name in infra: slurm/NAME, {config} where that is written.
_COMPLAINTS = (
    (
        r"ssh: connect to host (\S+ port \d+): (?:Connection refused|No route|Network is unreachable)",
        "its login node does not answer: nobody listens at {0}",
        "correct HostName and Port of `Host {host}` in {config}, or start its sshd",
    ),
    (
        r"(?:ssh: connect to host (\S+ port \d+): Connection timed out|Connection timed out during banner)",
        "its login node does not answer in time",
        "correct HostName and Port of `Host {host}` in {config}, or open the firewall",
    ),
    (
        r"Could not resolve hostname (\S+?):",
        "the name of its login node, {0}, is not known",
        "correct HostName of `Host {host}` in {config}",
    ),
    (
        r"Permission denied \(([^)]*)\)",
        "its login node takes neither the user nor the key ({0})",
        "correct User and IdentityFile of `Host {host}` in {config}, "
        "or add the key to the user's authorized_keys",
    ),
    (
        r"(?:Identity file|Load key) \"?(\S+?)\"?:? (?:not accessible|No such file|.*invalid format)",
        "the key {0} cannot be read",
        "correct IdentityFile of `Host {host}` in {config}",
    ),
    (
        r"Host key verification failed",
        "its login node shows another host key than before",
        "remove the old key of `Host {host}` from known_hosts of SkyPilot's API server, once you know why",
    ),
    (
        # SSH itself failed, and said nothing: quiet as SkyPilot runs it, that is how a wrong key looks.
        r"Command sinfo failed with return code 255",
        "its login node does not let SkyPilot in: a wrong user or key, most often",
        "correct User and IdentityFile of `Host {host}` in {config}, "
        "or add the key to the user's authorized_keys",
    ),
    (
        r"Slurm configuration file (\S+) does not exist",
        "there is no {0} beside SkyPilot's API server",
        "write a `Host` block for each Slurm cluster there (HostName, User, IdentityFile), "
        "then `cairn check --refresh`",
    ),
    (
        r"Cluster (\S+) not found in Slurm config.*Available clusters: \[\]",
        "there is no Slurm cluster {0}, and no other",
        "add a `Host` block to {config}, then `cairn check --refresh`",
    ),
    (
        r"Cluster (\S+) not found in Slurm config.*Available clusters: (\[.*?\])",
        "there is no Slurm cluster {0}; there are {1}",
        "name one of them as `infra: slurm/NAME`, or add a `Host` block to {config}",
    ),
    (
        r"requires (\S+) which is not enabled",
        "{0} is not enabled",
        "`cairn check` says what it lacks; or name another `infra`",
    ),
    (
        r"Invalid resources YAML: '(\S+)' does not match .*field\(s\): \$\.infra",
        "SkyPilot knows no infra {0}",
        "`cairn check` lists what there is",
    ),
    (
        r"No cloud access|Cloud access is not set up|No enabled clouds|no cloud is enabled|No enabled infra",
        "no infra is enabled",
        "`cairn check` says what each of them lacks",
    ),
    (
        r"docker_image|Docker image is not supported",
        "this Slurm runs no container images (its Pyxis plugin is missing)",
        "leave `image_id` out and use `cairn: {{env: ...}}`, or have Pyxis installed",
    ),
    (
        r"open_ports|Opening ports is not supported",
        "it opens no ports",
        "leave `resources.ports` out; `cairn forward JOB PORT` reaches any port of a job",
    ),
    (
        r"(?:manifest unknown|pull access denied|repository does not exist|image .*not found|No such image)",
        "its image does not exist, or is not to be had",
        "correct `image_id`",
    ),
    (
        r"Catalog does not contain any instances satisfying the request: (.*?)\.\s*(?:To fix|$)",
        "there is no machine for {0}",
        "ask for less than `cairn check` lists, and name `cpus` and `memory`, "
        "which SkyPilot chooses by the GPU otherwise",
    ),
    (
        r"is not a shared filesystem|not a shared filesystem",
        "its home directories are not on a shared filesystem",
        "needed for jobs of several nodes: set slurm.cluster_configs.{host}.workdir in ~/.sky/config.yaml",
    ),
    (
        r"Failed to acquire resources",
        "there was no room",
        "it is tried again; `any_of` lets another place be tried",
    ),
)  # fmt: skip
_UNREACHABLE = re.compile(
    r"ssh: connect to host|Connection timed out|Could not resolve hostname|Permission denied \(|"
    r"failed with return code 255|Host key verification failed|Identity file .* not accessible|Load key "
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A complaint in one line, and what to do about it in another."""

    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


def plain(text: str) -> str:
    """Without colours and control sequences."""
    return _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def unreachable(text: str) -> bool:
    """Whether a complaint is about a login node that cannot be reached, not about what was asked of it."""
    return _UNREACHABLE.search(text) is not None


def place(complaint: str) -> str:
    """The infra of Slurm that a complaint names; empty: none."""
    region = _REGION.search(complaint)
    return f"slurm/{region.group(1)}" if region else ""


def about(complaint: str, log: str) -> bool:
    """Whether the log speaks of the place that the complaint names, where it names one."""
    name = place(complaint).partition("/")[2]
    return not name or re.search(rf"\bfor (?:cluster )?{re.escape(name)}\b", log) is not None


def diagnose(text: str, *, infra: str = "") -> Diagnosis | None:
    """What a complaint of SkyPilot means; None where it is not one that is known here."""
    words = " ".join(plain(text).split())
    host = (infra or place(words)).partition("/")[2].partition("/")[0] or "NAME"
    for pattern, problem, remedy in _COMPLAINTS:
        if match := re.search(pattern, words, re.IGNORECASE):
            groups = [group or "" for group in match.groups()]
            return Diagnosis(
                short(problem.format(*groups, host=host)),
                remedy.format(*groups, host=host, config=_CONFIG),
            )
    return None


def short(text: str) -> str:
    """In one line of a bounded length."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."

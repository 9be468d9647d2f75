"""What SkyPilot prints for people, as its 0.14.1 printed it, and what is made of it."""

from __future__ import annotations

import pytest

from cairn_scheduler.infra import Infra, InfraState, Placement
from cairn_scheduler.sky import words
from cairn_scheduler.sky.errors import Kind, SkyError, explained, told

CHECK = """Checking credentials to enable infra for SkyPilot (Workspaces: team-a, default).
\x1b[31m  AWS: disabled \x1b[0m
    Reason [compute, storage]: AWS dependencies are not installed. Run the following commands:
      $ pip install skypilot[aws]
    Credentials may also need to be set. Run the following commands:
      $ aws configure
  Azure: disabled
    Reason [compute, storage]: ~/.azure/msal_token_cache.json does not exist. Run the following commands:
      $ az login
      $ az account set -s <subscription_id>
    For more info: https://docs.microsoft.com/en-us/cli/azure/get-started-with-azure-cli
  CoreWeave: disabled
    Reason [storage]: [cw] profile is not set in ~/.coreweave/cw.credentials.
  DO: disabled
    Reason [compute]: Traceback (most recent call last):
  File "site-packages/sky/check.py", line 213, in check_one_cloud_one_capability
    ok, reason = cloud.check_credentials(capability)
ModuleNotFoundError: No module named 'azure'
  Lambda: disabled
    Reason [compute]: Failed to access Lambda Cloud with credentials. To configure credentials, go to:
      https://cloud.lambdalabs.com/api-keys
    to generate API key and add the line
\x1b[32m\x1b[22m  Slurm: enabled [compute]\x1b[0m
    Allowed clusters:
    \x1b[2m├── \x1b[0mnoport: disabled. Credential check failed: \
sky.exceptions.CommandError: Command sinfo failed with return code 255.
\x1b[31mFailed to get Slurm cluster information.\x1b[0m


ssh: connect to host 127.0.0.1 port 22999: Connection refused

    \x1b[2m├── \x1b[0mnokey: disabled. Credential check failed: \
sky.exceptions.CommandError: Command sinfo failed with return code 255.
\x1b[31mFailed to get Slurm cluster information.\x1b[0m


    \x1b[2m└── \x1b[0mlab: \x1b[32menabled.\x1b[0m \x1b[93mWarning: Home directory (~) filesystem \
type is 'ext2/ext3', not a shared filesystem. Set slurm.cluster_configs.lab.workdir.\x1b[0m\x1b[0m

\x1b[32m🎉 Enabled infra for workspace: 'default' 🎉\x1b[0m
  \x1b[32mSlurm [compute]\x1b[0m
    Allowed clusters:
    \x1b[2m└── \x1b[0mlab

To enable a cloud, follow the hints above and rerun: \x1b[0m\x1b[1msky check\x1b[0m
"""
TABLE = (
    "Considered resources (2 nodes):\n"
    "-------------------------------------------------------------------------\r\n"
    " INFRA         INSTANCE   vCPUs   Mem(GB)   GPUS     COST ($)   CHOSEN   \r\n"
    "-------------------------------------------------------------------------\r\n"
    " Slurm (lab)   -          8       32        H100:2   1,206.50            \r\n"
    " AWS (us-east-1)   p3[Spot]   4       16        -        3.00       \x1b[32m   ✔\x1b[0m     \r\n"
    "-------------------------------------------------------------------------\n"
    "Dryrun finished.\n"
)
CATALOG = (
    "Catalog does not contain any instances satisfying the request: 1x Slurm(cpus=1, region=noport).\n"
    "To fix: relax or change the resource requirements.\n"
)
REFUSED = "ssh: connect to host 127.0.0.1 port 22999: Connection refused\n"
OF_NOPORT = (
    f"Failed to get SelectTypeParameters: \n{REFUSED}\n"
    "Failed to get partitions for noport: Failed to get partitions for cluster noport: "
    "sky.exceptions.CommandError: Command scontrol show partitions -o failed with return code 255.\n"
    f"{REFUSED}"
)


def test_the_report_of_a_check_is_read_with_reasons_and_remedies() -> None:
    found = {infra.name: infra for infra in words.report(CHECK)}
    assert list(found) == [
        "aws", "azure", "do", "lambda", "slurm/noport", "slurm/nokey", "slurm/lab",
    ]  # fmt: skip
    assert found["aws"] == Infra(
        "aws",
        InfraState.DISABLED,
        "AWS dependencies are not installed",
        "start by `CAIRN_SKYPILOT_EXTRAS=slurm,aws cairn up --skypilot`, and set up its credentials",
    )
    assert found["azure"].remedy.endswith(": az login; az account set -s <subscription_id>")
    assert found["do"].problem == "ModuleNotFoundError: No module named 'azure'"
    assert found["lambda"].remedy == "see https://cloud.lambdalabs.com/api-keys"
    assert found["slurm/noport"].state is InfraState.UNREACHABLE
    assert found["slurm/noport"].problem.endswith("nobody listens at 127.0.0.1 port 22999")
    assert "Port of `Host noport`" in found["slurm/noport"].remedy
    assert found["slurm/nokey"].state is InfraState.UNREACHABLE
    assert "IdentityFile of `Host nokey`" in found["slurm/nokey"].remedy
    assert found["slurm/lab"].state is InfraState.ENABLED
    assert found["slurm/lab"].problem == "its home directories are not on a shared filesystem"
    assert all("\n" not in infra.problem + infra.remedy for infra in found.values())


def test_a_report_of_something_else_names_no_place() -> None:
    assert words.report("Traceback (most recent call last):\n  boom: yes\n") == []


def test_the_table_of_choices_is_read_with_the_chosen_one_first() -> None:
    table = TABLE.replace("AWS (us-east-1)   p3[Spot]", "AWS (us-e)    p3[Spot]")
    assert words.choices(table) == [
        Placement("aws/us-e", "p3", "", 4.0, 16.0, 3.0, spot=True),
        Placement("slurm/lab", "", "H100:2", 8.0, 32.0, 1206.5),
    ]
    assert words.choices("Dryrun finished.") == []


@pytest.mark.parametrize(
    ("name", "message", "says", "does"),
    [
        (
            "ValueError",
            "Cluster nowhere not found in Slurm config. Available clusters: ['lab']",
            "there is no Slurm cluster nowhere",
            "infra: slurm/NAME",
        ),
        (
            "ValueError",
            "Cluster lab not found in Slurm config. Available clusters: []",
            "no Slurm cluster lab, and no other",
            "add a `Host` block",
        ),
        (
            "InvalidSkyPilotConfigError",
            "Failed to override the SkyPilot config on API server with your local SkyPilot config:\n"
            "Details: Invalid resources YAML: 'nonsense' does not match '^(?:(?i:(aws|slurm))$'. "
            "Check problematic field(s): $.infra",
            "SkyPilot knows no infra nonsense",
            "cairn check",
        ),
        (
            "NoCloudAccessError",
            "Cloud access is not set up. Run: \x1b[1msky check\x1b[0m",
            "no infra is enabled",
            "cairn check",
        ),
        (
            "ResourcesUnavailableError",
            "Task 'a' requires aws which is not enabled.",
            "aws is not",
            "cairn check",
        ),
        ("ResourcesUnavailableError", CATALOG, "there is no machine for 1x Slurm(", "ask for less"),
        (
            "NotSupportedError",
            "The following features are not supported by Slurm:\n\tFeature       Reason\n"
            "\tdocker_image  Docker image is not supported on this Slurm cluster",
            "runs no container images",
            "leave `image_id` out",
        ),
        (
            "NotSupportedError",
            "open_ports  Opening ports is not supported",
            "opens no ports",
            "cairn forward",
        ),
    ],
)
def test_a_complaint_is_told_with_what_to_do(name: str, message: str, says: str, does: str) -> None:
    error = explained(told(name, message), "")
    assert error.kind is Kind.REFUSED
    assert says in str(error)
    assert does in str(error)


def test_a_login_node_that_is_away_is_not_taken_for_a_machine_that_does_not_exist() -> None:
    refused = told("ResourcesUnavailableError", CATALOG)
    assert refused.kind is Kind.REFUSED
    error = explained(refused, OF_NOPORT)
    assert error.kind is Kind.BROKEN
    assert "nobody listens at 127.0.0.1 port 22999" in str(error)
    # SkyPilot asks every cluster: that another one is away is no excuse.
    other = told("ResourcesUnavailableError", CATALOG.replace("noport", "lab"))
    assert explained(other, OF_NOPORT).kind is Kind.REFUSED


def test_what_nobody_knows_is_passed_on_as_it_is() -> None:
    assert str(explained(SkyError(Kind.BROKEN, "Boom: something new"), "log")) == "Boom: something new"

"""What the quota service reads from the environment (prefix ``CAIRN_``)."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from cairn_common.settings import ServiceSettings


class QuotaSettings(ServiceSettings):
    """The common settings, and quota's own. Build it with `load`."""

    # Path of a 0600 JSON file with the SHA-256 of the first tokens:
    # {"admin": "<hex>", "services": {"scheduler": "<hex>", ...}}. Absent: nobody is made.
    bootstrap: Path | None = None
    # Seed of the account that signs what the auth callout answers. Empty: no auth callout.
    nats_issuer_seed: SecretStr = SecretStr("")
    # Seed of the user in the account AUTH that answers the auth callout.
    nats_callout_seed: SecretStr = SecretStr("")
    # Seed of a user of the system account: ends the connections of revoked tokens at once. Empty: they end
    # when their admission expires, within 15 minutes.
    nats_system_seed: SecretStr = SecretStr("")
    # The account that admitted connections join: not the services' own, see `cairn_server.backends.nats`.
    nats_account: str = "JOBS"
    # Under which webhooks' URLs and secrets are kept; empty: one made once in data_dir; neither: no webhooks.
    secrets_key: SecretStr = SecretStr("")
    # Networks inside that webhooks may lead to, with commas between; all that is not public is refused else.
    webhook_networks: str = ""

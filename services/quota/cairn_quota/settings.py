"""What the quota service reads from the environment (prefix ``CAIRN_``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

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
    # What the stream of one team's jobs may hold at most, and those of all teams together, in bytes. Once one
    # is full, because no tracker takes anything in, it refuses more: what is logged waits on the jobs' disks.
    job_stream_bytes: int = Field(default=1024**3, gt=0)
    job_streams_bytes: int = Field(default=8 * 1024**3, gt=0)
    # Under which secrets and webhooks' URLs are kept; empty: one made once in data_dir; neither: there are
    # none.
    secrets_key: SecretStr = SecretStr("")
    # The one before it, while what was sealed under that is sealed anew.
    secrets_key_old: SecretStr = SecretStr("")
    # Networks inside that webhooks may lead to, with commas between; all that is not public is refused else.
    webhook_networks: str = ""

    # Single sign-on by OpenID Connect (oidc.py): the provider's URL, exactly as it calls itself; https, or
    # http on loopback. Empty: off.
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    # Either of them; neither: a public client, which has PKCE alone.
    oidc_client_secret: SecretStr = SecretStr("")
    oidc_client_secret_file: Path | None = None
    # How the secret is shown: by HTTP Basic, or in the form. Empty: as the provider says, Basic first.
    oidc_client_auth: Literal["", "basic", "post"] = ""
    oidc_scopes: str = "openid email profile"
    # What the button says.
    oidc_button: str = "Single sign-on"
    # Domains of e-mail addresses, with commas between: nobody else comes in this way. Empty: everybody.
    oidc_domains: str = ""
    # What people become whom nobody has invited: `team:role`. Empty: they need an invitation, or a group.
    oidc_sign_up: str = ""
    # The claim that lists somebody's groups, and what these make of them: `group=team:role`, with commas
    # between.
    oidc_groups_claim: str = ""
    oidc_groups: str = ""

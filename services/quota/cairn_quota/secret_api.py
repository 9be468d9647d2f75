"""SecretService: values of teams and users that their jobs get, and nobody is shown again."""

from __future__ import annotations

from dataclasses import dataclass

from cairn.quota.v1 import secret_pb2, secret_service_pb2
from cairn.quota.v1.secret_service_pb2_grpc import SecretServiceServicer
from cairn_common import variables
from cairn_common.auth import Access, Role, Scope, access
from cairn_common.clock import Clock
from cairn_common.errors import FailedPrecondition, PermissionDenied, Reason
from cairn_common.ids import parse_name
from cairn_common.rpc import caller
from cairn_common.sealing import Sealed, Sealer
from cairn_quota import checks, user_checks, wire
from cairn_quota.secret_store import Secret, SecretStore, Use, name_of
from cairn_quota.sight import self_of, team_of
from cairn_quota.user_store import user_not_found

SECRETS = "cairn.quota.v1.SecretService"
SECRET_ACCESS: dict[str, Access] = {
    # Of a team by its admins, which the handler holds; of a user by themselves.
    f"/{SECRETS}/SetSecret": access(Role.NONE, scope=Scope.ADMIN),
    f"/{SECRETS}/ListSecrets": access(Role.NONE),
    f"/{SECRETS}/DeleteSecret": access(Role.NONE, scope=Scope.ADMIN),
    f"/{SECRETS}/UseSecrets": access(Role.SERVICE),
}
# Fewer characters are words, too: hiding them would garble logs, and would hide nothing.
LEAST, MOST_USED = 6, 100
USER = "services/scheduler"
"""Who gets values, for attempts."""


@dataclass(frozen=True)
class SecretApi(SecretServiceServicer):
    """SecretService over its store. Without a vault nothing can be set."""

    store: SecretStore
    vault: Sealer | None
    clock: Clock

    async def SetSecret(
        self, request: secret_service_pb2.SetSecretRequest, context: object
    ) -> secret_pb2.Secret:
        """A value that jobs get from now on."""
        owner, variable = _named(request.name)
        vault = self._vault()
        sealed = vault.seal(name_of(owner, variable), _value(request.value).encode())
        made = await self.store.set(
            owner, variable, sealed=sealed, actor=caller().subject, now=self.clock.now()
        )
        return _message(made)

    async def ListSecrets(
        self, request: secret_service_pb2.ListSecretsRequest, context: object
    ) -> secret_service_pb2.ListSecretsResponse:
        """What there is, without values."""
        found = await self.store.secrets(_owner(request.parent, Role.VIEWER))
        return secret_service_pb2.ListSecretsResponse(secrets=[_message(one) for one in found])

    async def DeleteSecret(
        self, request: secret_service_pb2.DeleteSecretRequest, context: object
    ) -> secret_service_pb2.DeleteSecretResponse:
        """No attempt that begins later gets it."""
        owner, variable = _named(request.name)
        await self.store.delete(owner, variable, actor=caller().subject, now=self.clock.now())
        return secret_service_pb2.DeleteSecretResponse()

    async def UseSecrets(
        self, request: secret_service_pb2.UseSecretsRequest, context: object
    ) -> secret_service_pb2.UseSecretsResponse:
        """Values for an attempt."""
        if caller().subject != USER:
            raise PermissionDenied("only the scheduler gets values of secrets", reason=Reason.ROLE_TOO_LOW)
        if len(request.variables) > MOST_USED:
            raise checks.invalid("variables", f"at most {MOST_USED}")
        use = Use(
            team=parse_name("teams/{team}", request.parent)["team"],
            user=request.user,
            job=request.job,
            attempt_uid=request.attempt_uid,
        )
        found = await self.store.use(request.variables, use, now=self.clock.now())
        values = {variable: self._open(name_of(owner, variable), kept) for owner, variable, kept in found}
        return secret_service_pb2.UseSecretsResponse(values=values)

    def _open(self, name: str, sealed: bytes) -> str:
        try:
            return self._vault().open(name, sealed).decode()
        except Sealed:
            raise FailedPrecondition(
                f"{name} was sealed with another key than the quota service has now (CAIRN_SECRETS_KEY, or "
                "secrets.key in its data folder): put that back, or set the secret again.",
                reason=Reason.SECRET_SEALED,
            ) from None

    def _vault(self) -> Sealer:
        if self.vault is None:
            raise FailedPrecondition("There is no key to keep secrets by; set CAIRN_SECRETS_KEY.")
        return self.vault


def _named(name: str) -> tuple[str, str]:
    """Owner and variable, where the caller may change them. Raises NotFound or PermissionDenied."""
    parent, word, variable = name.rpartition("/secrets/")
    if not word:
        parse_name("teams/{team}/secrets/{variable}", name)
    owner = _owner(parent, Role.ADMIN)
    if variables.NAME.fullmatch(variable) is None:
        raise checks.invalid(
            "name", f"{variable[:80]!r} is not a name for a variable: letters, digits and _, no digit first"
        )
    if variables.TAKEN.fullmatch(variable):
        raise checks.invalid("name", f"{variable} is set by the platform itself; choose another variable")
    return owner, variable


def _owner(name: str, role: Role) -> str:
    """The owner's name, where the caller has the role in the team, or is the user."""
    if not name.startswith("users/"):
        return f"teams/{team_of(name, role)}"
    me = self_of(caller())
    if name != "users/me" and user_checks.user(name) != me:
        raise user_not_found(name.removeprefix("users/"))
    return f"users/{me}"


def _value(text: str) -> str:
    """No error says it."""
    if len(text.strip()) < LEAST:
        raise checks.invalid(
            "value",
            f"has fewer than {LEAST} characters: it could not be hidden in logs, and is soon guessed",
        )
    if len(text.encode()) > variables.LONGEST:
        raise checks.invalid("value", f"is longer than {variables.LONGEST // 1024} KiB")
    if "\0" in text:
        raise checks.invalid("value", "has a NUL in it, which no variable can hold")
    return text


def _message(secret: Secret) -> secret_pb2.Secret:
    return secret_pb2.Secret(
        name=secret.name,
        variable=secret.variable,
        setter=secret.setter,
        create_time=wire.timestamp(secret.create_time),
        update_time=wire.timestamp(secret.update_time),
        use_time=wire.timestamp(secret.use_time),
    )

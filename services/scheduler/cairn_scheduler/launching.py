"""Starts attempts, many at a time: run tokens by one call, intents by one transaction, then the places.

A token is made before the intent is written, under the attempt's uid: whoever finds an intent without its
attempt (the process died in between) asks for it again, and the token's secret is replaced. A token whose
intent was never written was told to nobody, and expires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NoReturn

import structlog

from cairn_common.cancellation import heed_cancellation
from cairn_common.errors import DomainError, Unavailable
from cairn_common.ids import new_uid
from cairn_scheduler import model, steps, vault
from cairn_scheduler.causes import Evidence
from cairn_scheduler.cluster import Ended, LaunchFailed, Order
from cairn_scheduler.facts import Event
from cairn_scheduler.model import Attempt, Job, State, pool_of
from cairn_scheduler.outside import Outside
from cairn_scheduler.quota import Minting, RunToken
from cairn_scheduler.steps import Step
from cairn_scheduler.vault import Sealed
from cairn_scheduler.ways import Ways

log = structlog.get_logger(__name__)

# So many share a call and a transaction; a place is asked for so many at once.
_TOGETHER = 64
_AT_ONCE = 16
_PAUSE = 0.2

Secrets = dict[str, str] | Sealed
"""The values of an attempt's secrets, or why they are not to be had."""


class Launching:
    """See the module. `ended` takes the end of an attempt that never began, until it is written down; `wake`
    has the loop look again."""

    def __init__(
        self,
        outside: Outside,
        ways: Ways,
        *,
        ended: Callable[[Ended], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self._out = outside
        self._ways = ways
        self._ended = ended
        self._wake = wake
        self._due: list[str] = []
        self._some = asyncio.Event()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        # Attempts on their way to their place: nobody else is to start them meanwhile, with another secret.
        self.under_way: set[str] = set()

    def offer(self, due: Sequence[str]) -> None:
        """The jobs that are to be launched now, in their order; what was offered before is not any more."""
        self._due = list(due)
        self._some.set()

    async def run(self) -> NoReturn:
        """Launches what is offered, for ever: deciding does not wait for it."""
        while True:
            heed_cancellation()
            await self._some.wait()
            self._some.clear()
            while self._due:
                together, self._due = self._due[:_TOGETHER], self._due[_TOGETHER:]
                try:
                    await self._launch(together)
                except Unavailable as error:
                    log.warning("launching.waiting", reason=str(error.reason), error=error.message)
                    # The next round offers them again.
                    self._due = []
                    await asyncio.sleep(_PAUSE)
                    self._wake()

    async def _launch(self, uids: Sequence[str]) -> None:
        jobs = await self._out.recent.by_uid(uids)
        ready = [
            jobs[uid] for uid in uids if uid in jobs and jobs[uid].state in (State.ADMITTED, State.RECOVERING)
        ]
        if ready and not await self.launch(ready):
            self._wake()

    async def launch(self, jobs: Sequence[Job]) -> bool:
        """Begins another attempt of each job; False: some were changed meanwhile, and are left alone."""
        now = self._out.clock.now()
        intents: list[Step] = []
        for job in jobs:
            ways = self._ways.of(job, now=now) if job.pool == pool_of("any") else ()
            new = model.launch(job, now, attempt_uid=new_uid(), circuits=ways)
            intents.append((job, new, Event.LAUNCHING))
        uids = {_active(new).uid for _, new, _ in intents}
        self.under_way |= uids
        try:
            return await self._begin(intents)
        finally:
            self.under_way -= uids

    async def _begin(self, intents: Sequence[Step]) -> bool:
        tokens = await self._tokens([new for _, new, _ in intents])
        intents = [step for step in intents if _active(step[1]).uid in tokens]
        secrets = await self._all_secrets([new for _, new, _ in intents])
        named = {uid: token.uid for uid, token in tokens.items()}
        done = await self._out.recent.save_alone(self._out.lead, intents, tokens=named)
        begun = [new for _, new, _ in intents if new.uid in done]
        log.info("jobs.launching", jobs=[new.uid for new in begun])
        await self._at_places(begun, tokens, secrets)
        return len(done) == len(intents)

    async def start(self, jobs: Sequence[Job]) -> None:
        """Starts attempts whose intents are written; done twice they start once."""
        if not jobs:
            return
        tokens = await self._tokens(jobs)
        ready = [job for job in jobs if _active(job).uid in tokens]
        secrets = await self._all_secrets(ready)
        async with self._out.lead.transaction() as conn:
            await steps.set_tokens(conn, {_active(job).uid: tokens[_active(job).uid].uid for job in ready})
        await self._at_places(ready, tokens, secrets)

    async def _tokens(self, jobs: Sequence[Job]) -> dict[str, RunToken]:
        """By attempt. What quota refuses is logged and left out: the next round asks again."""
        wanted = [_minting(job) for job in jobs]
        try:
            made = await self._out.quota.mint_many(wanted)
            return dict(zip((one.attempt_uid for one in wanted), made, strict=True))
        except Unavailable:
            raise
        except DomainError:
            # One of them spoils it for all: each for itself.
            return await self._tokens_alone(wanted)

    async def _tokens_alone(self, wanted: Sequence[Minting]) -> dict[str, RunToken]:
        made = {}
        for one in wanted:
            try:
                made[one.attempt_uid] = await self._out.quota.mint(one)
            except Unavailable:
                raise
            except DomainError as error:
                log.error(
                    "attempt.token_refused",
                    attempt=one.attempt_uid,
                    reason=str(error.reason),
                    error=error.message,
                )
        return made

    async def _at_places(
        self, jobs: Sequence[Job], tokens: Mapping[str, RunToken], secrets: Mapping[str, Secrets]
    ) -> None:
        # Written and not begun is found again; begun by one who no longer decides is not.
        await self._out.lead.check()
        await asyncio.gather(
            *(self._at_place(job, tokens[_active(job).uid], secrets[_active(job).uid]) for job in jobs)
        )

    async def _at_place(self, job: Job, token: RunToken, secrets: Secrets) -> None:
        attempt = _active(job)
        if isinstance(secrets, Sealed):
            await self._failed(attempt, str(secrets), refused=True)
            return
        order = Order(
            team=job.team,
            run_uid=job.uid,
            attempt_uid=attempt.uid,
            attempt=attempt.number,
            display_name=job.display_name,
            spec=job.spec,
            code=job.code,
            token=token.secret,
            creator=job.creator,
            circuits=attempt.circuits,
            secrets=secrets,
        )
        async with self._gate:
            try:
                await self._out.lead.check()
                await self._out.clusters[attempt.cluster].launch(order)
            except LaunchFailed as error:
                log.warning("attempt.launch_failed", attempt=attempt.uid, error=str(error))
                await self._failed(attempt, str(error))

    async def _failed(self, attempt: Attempt, message: str, *, refused: bool = False) -> None:
        end = self._out.clock.now().timestamp()
        await self._ended(Ended(attempt.uid, Evidence(message=message, refused=refused, end_time=end)))

    async def _all_secrets(self, jobs: Sequence[Job]) -> dict[str, Secrets]:
        """By attempt. Raises Unavailable before anything is begun."""
        found = await asyncio.gather(*(self._secrets(job) for job in jobs), return_exceptions=True)
        made: dict[str, Secrets] = {}
        for job, secrets in zip(jobs, found, strict=True):
            if isinstance(secrets, BaseException) and not isinstance(secrets, Sealed):
                raise secrets
            made[_active(job).uid] = secrets
        return made

    async def _secrets(self, job: Job) -> dict[str, str]:
        """Raises Sealed where they are not to be had."""
        if not job.spec.secrets:
            return {}
        sealed = await vault.kept(self._out.db, job.uid)
        if sealed is None:
            raise Sealed("Its secrets are not kept any more. Submit it again.")
        values = self._out.vault.open(job.uid, sealed)
        stored = await self._stored(job, [name for name, value in values.items() if value is None])
        return {name: stored[name] if value is None else value for name, value in values.items()}

    async def _stored(self, job: Job, names: Sequence[str]) -> dict[str, str]:
        """What the quota service keeps, as it is now."""
        if not names:
            return {}
        try:
            found = await self._out.quota.secrets(
                names,
                team=job.team,
                user=job.creator,
                job=f"teams/{job.team}/jobs/{job.uid}",
                attempt_uid=_active(job).uid,
            )
        except Unavailable:
            raise
        except DomainError as error:
            raise Sealed(f"Its secrets are not to be had: {error.message}") from None
        if missing := [name for name in names if name not in found]:
            raise Sealed(
                f"No value is kept any more for {', '.join(missing)}, or {job.creator} is no member any more."
                f" Set it again (`cairn secret set {missing[0]}`), and rerun the job."
            )
        return found


def _active(job: Job) -> Attempt:
    assert job.active is not None
    return job.active


def _minting(job: Job) -> Minting:
    attempt = _active(job)
    return Minting(team=job.team, run_uid=job.uid, attempt_uid=attempt.uid, request_id=attempt.uid)

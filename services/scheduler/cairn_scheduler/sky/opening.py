"""How SkyPilot becomes a cluster of this scheduler."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from cairn_scheduler.sky.api import User, open_api
from cairn_scheduler.sky.cluster import SkyCluster
from cairn_scheduler.sky.ears import Ears
from cairn_scheduler.sky.order import Surroundings
from cairn_scheduler.sky.prices import ask_prices
from cairn_scheduler.sky.records import Records
from cairn_scheduler.sky.survey import Surveyor
from cairn_scheduler.sky.tool import pack
from cairn_scheduler.sky.watchdog import watch

LOOK_SECONDS = 20.0


@asynccontextmanager
async def open_sky(
    folder: Path,
    *,
    api_url: str,
    around: Surroundings,
    nats_url: str,
    seed: SecretStr | str | None,
    look_seconds: float = LOOK_SECONDS,
    provision_seconds: int = 120,
) -> AsyncIterator[SkyCluster]:
    """SkyPilot's API server at `api_url` as a cluster for the block; `folder` remembers its attempts. Every
    `look_seconds` its account is compared with ours.

    `provision_seconds`: how long SkyPilot may look for a free machine; then the queue is ours again.

    At the end the attempts go on by themselves. The server need not be there yet.
    """
    kept = Records(folder)
    platform = _platform_id(folder)
    prefix = f"cairn-{platform}-"
    tool = await asyncio.to_thread(pack)
    ears = Ears(nats_url, seed)
    user = User(hashlib.sha256(platform.encode()).hexdigest()[:8], "cairn")
    async with open_api(api_url, user=user) as api, asyncio.TaskGroup() as tasks:
        cluster = SkyCluster(
            api,
            kept=kept,
            ears=ears,
            tool=tool,
            around=around,
            surveyor=Surveyor(api, url=api_url),
            provision_seconds=provision_seconds,
            prefix=prefix,
        )
        cluster.adopt()
        elsewhere = any(record.elsewhere for record in kept.all())
        known = [record.after for record in kept.all()]
        since = min((number or 0 for number in known), default=None)
        works = [
            tasks.create_task(ears.run(cluster.hear, since=since, elsewhere=elsewhere), name="sky ears"),
            tasks.create_task(watch(cluster, api, pause=look_seconds), name="sky watchdog"),
            tasks.create_task(ask_prices(cluster, api), name="sky prices"),
        ]
        try:
            yield cluster
        finally:
            for work in works:
                work.cancel()
            await cluster.detach()


def _platform_id(folder: Path) -> str:
    """What tells this platform's clusters from those of another one on the same server; made once."""
    path = folder / "id"
    if not path.exists():
        path.write_text(secrets.token_hex(3))
    return path.read_text().strip()

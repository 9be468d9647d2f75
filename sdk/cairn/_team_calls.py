"""What the parts of `cairn.Client` share: where the API is, and how its names are written."""

from __future__ import annotations

from cairn._http import Api, Json, segment
from cairn._ids import new_uid

# All that the API says about itself is below this path.
BASE = "/api/v1"


class TeamCalls:
    """Calls of one bearer in one team."""

    api: Api
    team: str

    def _team(self, *parts: str) -> str:
        return "/".join([f"{BASE}/teams/{segment(self.team)}", *(segment(bare(part)) for part in parts)])

    def _create(self, body: Json, *parts: str) -> Json:
        """Makes something, once, however often it has to be sent."""
        return self.api.post(self._team(*parts), {**body, "request_id": new_uid()})


def bare(name: str) -> str:
    """The last piece of a resource's name."""
    return name.rsplit("/", 1)[-1]

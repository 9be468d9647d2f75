"""What `/api/v1/openapi.json` promises, put to the test by schemathesis, on a running platform."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.harness.platform import Platform

# Of each route; what comes of one example too many is found by letting this be larger.
EXAMPLES = 3
# A stream has no end; who signs out is nobody after that.
NOT_ASKED = ("/api/v1/teams/{team}/events", "/api/v1/session:end")
# More is refused than a schema can say (a page's token is one that was given, a tree has no cycle), and a
# null stands for nothing where the schema names the type of something.
BEYOND_SCHEMAS = "positive_data_acceptance,negative_data_rejection"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("contract"))
    platform.up()
    yield platform
    platform.down()


@pytest.mark.timeout(300)
def test_no_answer_is_a_5xx_or_other_than_documented(platform: Platform, tmp_path: Path) -> None:
    token = json.loads((platform.data / "secrets.json").read_text())["admin_token"]
    url, sent = platform.status()["url"], {"Authorization": f"Bearer {token}"}
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"{url}/api/v1/openapi.json", headers=sent, trust_env=False).content)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", str(document), "--url", url,
            "-H", f"Authorization: Bearer {token}", "--phases", "examples,coverage,fuzzing",
            "--max-examples", str(EXAMPLES), "--exclude-checks", BEYOND_SCHEMAS,
            *(word for path in NOT_ASKED for word in ("--exclude-path", path)),
            "--request-timeout", "30", "--seed", "1", "--suppress-health-check", "all", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert httpx.get(f"{url}/api/v1/me", headers=sent, trust_env=False).status_code == 200, "it was let in"

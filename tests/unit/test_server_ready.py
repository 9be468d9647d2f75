"""A service is ready when it answers itself, whoever else answers in its place, and for many at a time."""

from __future__ import annotations

import http.server
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cairn_server import SERVICES, credentials, home, ports, services
from cairn_server.backends.program import NotReady


class Stranger(http.server.BaseHTTPRequestHandler):
    """Another platform, at the port that both wanted."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


async def test_another_platform_at_the_public_port_does_not_make_our_gateway_ready(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        made = home.prepare(tmp_path / "data")
        gateway = services.program(
            "gateway",
            wiring=services.Wiring(
                root=made.root,
                ports=ports.free(SERVICES) | {"http": stranger.server_address[1]},
                http_bind=f"127.0.0.1:{stranger.server_address[1]}",
                public_url="",
                nats_url="nats://127.0.0.1:1",
                postgres_urls=dict.fromkeys(SERVICES, ""),
                s3_endpoint="",
                clickhouse_url="",
                embedded_s3=None,
                bootstrap=tmp_path / "bootstrap.json",
            ),
            credentials=credentials.load(made),
            operator={},
        )
        with pytest.raises(NotReady, match="health"):
            await gateway.probe()
        stranger.shutdown()


@pytest.mark.parametrize(("most", "few"), [("-Sn", False), ("-n", True)])
def test_a_service_opens_as_many_files_as_it_may_and_says_if_they_are_few(most: str, few: bool) -> None:
    program = (
        "from cairn_gateway.listen import most_connections_here as most; from cairn_server import serve;"
        "import os; before = most(); files = serve.raise_file_limit();"
        "assert os.environ.get('CAIRN_SOFT_FILES') == (None if files == 300 else '300');"
        "assert (before, most()) == (300 - 256, min(2000, max(32, files - 256))); print(files)"
    )
    done = subprocess.run(
        ["sh", "-c", f'ulimit {most} 300 && exec "$@"', "sh", sys.executable, "-c", program],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    may = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    assert int(done.stdout.splitlines()[-1]) == (300 if few else may)
    assert ("files.few" in done.stdout + done.stderr) is (few or may < 4096)

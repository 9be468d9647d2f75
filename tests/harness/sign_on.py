"""A real provider of single sign-on (node-oidc-provider, certified), and a browser that goes there."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey

from cairn_server.ports import free

VERSION = "9.13.3"
_SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
_FORM = re.compile(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')
SECRET = "of the client/ +, and of tests alone"


def installed(folder: Path) -> Path:
    """The provider's package, from npm. Without node it fails in CI, and is skipped elsewhere."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("node and npm are needed in CI: single sign-on is tested against a real provider")
        pytest.skip("no node here")
    folder.mkdir()
    (folder / "package.json").write_text("{}")
    subprocess.run(
        [
            "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts",
            f"oidc-provider@{VERSION}",
        ],
        cwd=folder, check=True, capture_output=True, timeout=150,
    )  # fmt: skip
    return folder


def key(kid: str) -> dict[str, Any]:
    """A key that the provider signs by."""
    return dict(RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}).as_dict(private=True))


@dataclass
class Provider:
    """A running provider. Whom it knows is by `accounts`: the id, with claims."""

    package: Path
    accounts: Mapping[str, Mapping[str, Any]]
    redirect_uri: str
    port: int = field(default_factory=lambda: free(["provider"])["provider"])
    _process: asyncio.subprocess.Process | None = None
    _keys: list[dict[str, Any]] = field(default_factory=list)

    @property
    def issuer(self) -> str:
        """On another site than 127.0.0.1, where Cairn is."""
        return f"http://localhost:{self.port}"

    @asynccontextmanager
    async def running(self, *keys: dict[str, Any]) -> AsyncIterator[None]:
        """For the block, signing by the first of these keys."""
        await self.again(*keys)
        try:
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Is away from now on."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.communicate()

    async def again(self, *keys: dict[str, Any]) -> None:
        """Starts anew where it was, with what it knows now, and with other keys where some are given."""
        await self.stop()
        self._keys = list(keys) or self._keys
        client = {"redirect_uris": [self.redirect_uri], "grant_types": ["authorization_code"]}
        given = {
            "folder": str(self.package), "issuer": self.issuer, "port": self.port, "keys": self._keys,
            "accounts": self.accounts,
            "clients": [
                {"client_id": "cairn", "client_secret": SECRET, **client},
                {"client_id": "in form", "client_secret": SECRET,
                 "token_endpoint_auth_method": "client_secret_post", **client},
                {"client_id": "public", "token_endpoint_auth_method": "none", **client},
            ],
        }  # fmt: skip
        self._process = await asyncio.create_subprocess_exec(
            "node", str(_SCRIPT), json.dumps(given), stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            assert (await self._process.stdout.readline()).strip() == b"listening"

    async def agree(self, browser: httpx.AsyncClient, url: str, account: str) -> str:
        """Signs in at the provider's own page, and agrees; gives where it sends the browser back to."""
        answer = await browser.get(url)
        for _ in range(12):
            if answer.is_redirect:
                url = urljoin(str(answer.url), answer.headers["location"])
                if urlsplit(url).port != self.port:
                    return url
                answer = await browser.get(url)
                continue
            assert answer.status_code == 200, answer.text
            form = _FORM.search(answer.text)
            assert form is not None, answer.text
            fields = {name: html.unescape(value) for name, value in _HIDDEN.findall(form[2])}
            fields |= {"login": account, "password": "any"} if "login" in fields.values() else {}
            answer = await browser.post(urljoin(str(answer.url), html.unescape(form[1])), data=fields)
        raise AssertionError("the provider sends nobody back")


def browser() -> httpx.AsyncClient:
    """A browser, with its own cookies."""
    return httpx.AsyncClient(trust_env=False, timeout=20)


def asked(url: str) -> dict[str, str]:
    """The parameters of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}

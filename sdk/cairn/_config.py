"""Where the server is and who is asking: the environment first, then the file that ``cairn login`` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

DEFAULT_TEAM = "main"


class ConfigError(Exception):
    """The configuration file cannot be used."""


@dataclass(frozen=True, slots=True)
class Config:
    """The address of a Cairn gateway (empty: none is known), a token for it, and the team to act in."""

    url: str = ""
    token: str = ""
    team: str = DEFAULT_TEAM

    def __repr__(self) -> str:
        return f"Config(url={self.url!r}, team={self.team!r})"


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """``CAIRN_CONFIG``, or ``cairn/config.json`` in the user's configuration folder."""
    environ = os.environ if environ is None else environ
    if given := environ.get("CAIRN_CONFIG"):
        return Path(given).expanduser()
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "cairn" / "config.json"


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """What the environment and the file say; neither has to exist. Raises `ConfigError`."""
    environ = os.environ if environ is None else environ
    config = read_file(config_path(environ))
    if (url := environ.get("CAIRN_URL")) and url.rstrip("/") != config.url.rstrip("/"):
        # The file's token belongs to the file's server: it is never sent to another one.
        config = replace(config, url=url, token="")
    token = environ.get("CAIRN_TOKEN") or _token_file(environ) or config.token
    return replace(config, token=token, team=environ.get("CAIRN_TEAM") or config.team)


def configured() -> Config:
    """The server that is configured; none where the configuration cannot be used."""
    try:
        return load_config()
    except ConfigError:
        return Config()


def read_file(path: Path) -> Config:
    """The file's content; an absent file gives an empty configuration. Raises `ConfigError`."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("it holds no JSON object")
        return Config(
            url=str(values.get("url") or ""),
            token=str(values.get("token") or ""),
            team=str(values.get("team") or DEFAULT_TEAM),
        )
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be used: {error}. Mend it, or remove it and `cairn login`"
        ) from error


def save_config(config: Config, path: Path | None = None) -> Path:
    """Writes the file, readable by its owner alone, whole or not at all."""
    import tempfile

    path = path or config_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"url": config.url, "token": config.token, "team": config.team}, file, indent=2)
            file.write("\n")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _token_file(environ: Mapping[str, str]) -> str:
    """The run token's file, inside a job."""
    try:
        return Path(environ["CAIRN_TOKEN_FILE"]).read_text().strip()
    except (KeyError, OSError):
        return ""

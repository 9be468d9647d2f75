"""What the gateway reads from the environment (prefix ``CAIRN_``), besides what every service reads."""

from __future__ import annotations

from cairn_common.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """Built once, where the process starts."""

    # host:port of the HTTP API and the page; port 0 takes a free one.
    http_bind: str = "127.0.0.1:0"
    # More names that may stand in a request's Host header, with commas between; the names of this
    # machine's loopback and the host of CAIRN_PUBLIC_URL always may.
    allowed_hosts: str = ""
    # Addresses or networks of proxies in front, with commas between: from these, and from nobody else, the
    # client's address is taken from X-Forwarded-For.
    trusted_proxies: str = ""

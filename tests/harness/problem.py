"""What a refused call says."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import aio

from cairn_common.errors import DomainError, from_rpc_error


async def problem(call: aio.UnaryUnaryCall[Any, Any]) -> DomainError:
    """The error of a call that has to be refused."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)

"""What a route is: one HTTP method and path, and the RPC that answers it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from cairn.gateway.v1 import gateway_pb2
from cairn.quota.v1 import (
    allocation_pb2,
    audit_pb2,
    quota_pb2,
    secret_service_pb2,
    user_service_pb2,
    webhook_service_pb2,
)
from cairn.scheduler.v1 import infra_pb2, orphan_pb2, outlook_pb2, scheduler_pb2
from cairn.tracker.v1 import (
    evaluation_pb2,
    keeping_pb2,
    lineage_pb2,
    logged_model_pb2,
    media_pb2,
    mlflow_file_pb2,
    mlflow_pb2,
    promotion_pb2,
    registry_pb2,
    sharing_pb2,
    trace_pb2,
    tracker_pb2,
)

SERVICES = {
    name: service
    for file in (
        scheduler_pb2,
        infra_pb2,
        orphan_pb2,
        outlook_pb2,
        quota_pb2,
        allocation_pb2,
        user_service_pb2,
        audit_pb2,
        webhook_service_pb2,
        secret_service_pb2,
        tracker_pb2,
        keeping_pb2,
        registry_pb2,
        logged_model_pb2,
        media_pb2,
        mlflow_file_pb2,
        mlflow_pb2,
        promotion_pb2,
        evaluation_pb2,
        lineage_pb2,
        trace_pb2,
        sharing_pb2,
        gateway_pb2,
    )
    for name, service in file.DESCRIPTOR.services_by_name.items()
}
_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Route:
    """A row of the route list. Fields of the RPC's request that ``bind`` and ``fixed`` do not fill are
    query parameters of a GET, and members of the body of a POST or PATCH.

    A row that names what its RPC does not have fails when the app is built, not when it is called.
    """

    # GET, POST or PATCH.
    method: str
    # Below /api/v1.
    path: str
    # Service/Method, as in the protos.
    rpc: str
    # A sentence for the OpenAPI document.
    summary: str
    # Request field -> resource name over the path's parameters: {"name": "teams/{team}/jobs/{job}"}.
    bind: Mapping[str, str] = field(default_factory=dict)
    # Request fields that take an id or a whole name -> the name's pattern: {"runs": "teams/{team}/runs/{}"}.
    refs: Mapping[str, str] = field(default_factory=dict)
    # Query parameter -> request field, where they differ: {"run": "runs"}.
    rename: Mapping[str, str] = field(default_factory=dict)
    # Request field -> a value that this route stands for.
    fixed: Mapping[str, int | str] = field(default_factory=dict)
    # For PATCH: the request field that the body is; its update_mask is what the body has.
    resource: str = ""
    # The request field that the header If-Match fills, where the RPC holds that nobody changed it in between.
    etag: str = ""
    # Instead of the RPC's name, where one RPC answers several routes.
    operation: str = ""
    # No token is asked for: the gateway calls as itself.
    public: bool = False
    # The request field that the Authorization header fills, where that is no token of ours: a link's secret.
    bearer: str = ""

    @cached_property
    def descriptor(self) -> MethodDescriptor:
        """The RPC. Raises KeyError for one that is in no proto."""
        service, _, method = self.rpc.partition("/")
        found: MethodDescriptor = SERVICES[service].methods_by_name[method]
        return found

    @cached_property
    def has_request_id(self) -> bool:
        """Whether it is safe to repeat under one Idempotency-Key."""
        return self.method != "GET" and "request_id" in self.descriptor.input_type.fields_by_name

    @property
    def operation_id(self) -> str:
        """Unique among all routes."""
        return self.operation or self.descriptor.name

    @property
    def parameters(self) -> list[str]:
        """Names of the path's parameters."""
        return _PARAMETER.findall(self.path)

    @cached_property
    def taken(self) -> frozenset[str]:
        """Request fields that neither a query nor a body may give. Raises KeyError for an unknown one."""
        fields = self.descriptor.input_type.fields_by_name
        taken = {
            name
            for name in (*self.bind, *self.fixed, *filter(None, [self.bearer]))
            if fields[name.partition(".")[0]]
        }
        return frozenset(taken)

    @cached_property
    def query(self) -> Mapping[str, FieldDescriptor]:
        """Query parameters that it knows, with the request fields that they fill."""
        if self.method != "GET":
            return {}
        fields = self.descriptor.input_type.fields_by_name
        outside = {inner: outer for outer, inner in self.rename.items() if fields[inner]}
        return {outside.get(name, name): fields[name] for name in fields if name not in self.taken}

    @cached_property
    def body(self) -> Descriptor | None:
        """The message that the body is; None for a GET."""
        if self.method == "GET":
            return None
        kind = self.descriptor.input_type
        return kind.fields_by_name[self.resource].message_type if self.resource else kind

    @cached_property
    def body_without(self) -> frozenset[str]:
        """Fields that the body may not have, as the URL gives them."""
        if self.resource:
            return frozenset({"name"})
        return self.taken

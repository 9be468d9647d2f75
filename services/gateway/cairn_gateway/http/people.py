"""Routes of people and programs: users, memberships, invitations, service accounts."""

from __future__ import annotations

from cairn_gateway.http.route import Route

TEAM = "teams/{team}"
USER = "users/{user}"
MEMBER = "teams/{team}/members/{user}"
_MEMBER = "/teams/{team}/members/{user}"

ROUTES = (
    Route(
        method="GET",
        path="/users",
        rpc="UserService/ListUsers",
        summary="Everybody; for admins of the organisation.",
    ),
    Route(
        method="GET",
        path="/users/{user}",
        rpc="UserService/GetUser",
        summary="Somebody of a team of one's own; `me` is oneself.",
        bind={"name": USER},
    ),
    Route(
        method="POST",
        path="/users/{user}:disable",
        rpc="UserService/DisableUser",
        summary="Revoke all of a user's tokens and let nobody in as them.",
        bind={"name": USER},
    ),
    Route(
        method="POST",
        path="/users/{user}:enable",
        rpc="UserService/EnableUser",
        summary="Let a disabled user in again.",
        bind={"name": USER},
    ),
    Route(
        method="POST",
        path="/password",
        rpc="UserService/SetPassword",
        summary="Change one's own password; other sessions end.",
    ),
    Route(
        method="GET",
        path="/teams/{team}/members",
        rpc="UserService/ListMemberships",
        summary="Who is what in the team.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/members",
        rpc="UserService/CreateMembership",
        summary="Make somebody a member whom one can see; invite others.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path=f"{_MEMBER}:role",
        rpc="UserService/UpdateMembership",
        summary="Give a member another role; felt everywhere at once.",
        bind={"name": MEMBER},
    ),
    Route(
        method="POST",
        path=f"{_MEMBER}:remove",
        rpc="UserService/DeleteMembership",
        summary="Take a member out of the team, or leave it.",
        bind={"name": MEMBER},
    ),
    Route(
        method="GET",
        path="/teams/{team}/invitations",
        rpc="UserService/ListInvitations",
        summary="The team's invitations, newest first, without their secrets.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/invitations",
        rpc="UserService/CreateInvitation",
        summary="Make a link that lets one person in, once. Its secret is shown this once.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/invitations/{invitation}:revoke",
        rpc="UserService/RevokeInvitation",
        summary="Make an invitation's link worth nothing.",
        bind={"name": "teams/{team}/invitations/{invitation}"},
    ),
    Route(
        method="POST",
        path="/teams/{team}/accounts",
        rpc="UserService/CreateServiceAccount",
        summary="Make a service account of the team, for programs.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path=f"{_MEMBER}:token",
        rpc="UserService/CreateAccountToken",
        summary="Make a token for a service account. Its secret is shown this once.",
        bind={"name": MEMBER},
    ),
    Route(
        method="POST",
        path=f"{_MEMBER}:disable",
        rpc="UserService/DisableServiceAccount",
        summary="End a service account and its tokens.",
        bind={"name": MEMBER},
    ),
)
AUDIT = (
    Route(
        method="GET",
        path="/teams/{team}/audit",
        rpc="AuditService/ListAuditEntries",
        summary="Who did what in the team, newest first; for its admins.",
        bind={"parent": TEAM},
        refs={"actor": "users/{}"},
    ),
    Route(
        method="GET",
        path="/audit",
        rpc="AuditService/ListAuditEntries",
        summary="Who did what in all teams and outside of them; for admins of the organisation.",
        fixed={"parent": "teams/-"},
        refs={"actor": "users/{}"},
        operation="ListAllAuditEntries",
    ),
)
DEVICE = (
    Route(
        method="GET",
        path="/device-logins/{code}",
        rpc="UserService/GetDeviceLogin",
        summary="A command line that waits to be let in.",
        bind={"name": "deviceLogins/{code}"},
    ),
    Route(
        method="POST",
        path="/device-logins/{code}:approve",
        rpc="UserService/ApproveDeviceLogin",
        summary="Let a command line in as oneself.",
        bind={"name": "deviceLogins/{code}"},
    ),
    Route(
        method="POST",
        path="/loopback-logins",
        rpc="UserService/CreateLoopbackLogin",
        summary="Let a command line on one's own machine in as oneself: where the browser goes now.",
    ),
)
# By which people come in: the only ones that need no token.
SIGN_IN = Route(
    method="POST",
    path="/sessions",
    rpc="UserService/CreateSession",
    summary="Sign in by password. With the header X-Cairn-Cookie the secret goes into a cookie.",
    public=True,
)
ACCEPT = Route(
    method="POST",
    path="/invitations:accept",
    rpc="UserService/AcceptInvitation",
    summary="Come in by an invitation's link. With the header X-Cairn-Cookie the secret goes into a cookie.",
    public=True,
)
ASK_IN = Route(
    method="POST",
    path="/device-logins",
    rpc="UserService/CreateDeviceLogin",
    summary="Begin to wait for somebody to let this command line in.",
    public=True,
)
FINISH = Route(
    method="POST",
    path="/device-logins:finish",
    rpc="UserService/FinishDeviceLogin",
    summary="Come in, once somebody has said so.",
    public=True,
)
FINISH_LOOPBACK = Route(
    method="POST",
    path="/loopback-logins:finish",
    rpc="UserService/FinishLoopbackLogin",
    summary="Come in with the code that the browser has brought, and its verifier.",
    public=True,
)
SIGN_OUT = Route(
    method="POST",
    path="/session:end",
    rpc="IdentityService/RevokeToken",
    summary="Revoke the token that this request brings, and forget the cookie.",
    operation="EndSession",
    bind={"name": "tokens/-"},
)

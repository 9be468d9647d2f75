"""Between users, memberships and invitations and their messages in cairn.quota.v1."""

from __future__ import annotations

from datetime import datetime

from cairn.quota.v1 import invitation_pb2, membership_pb2, token_pb2, user_pb2, user_service_pb2
from cairn_quota import wire
from cairn_quota.model import NewToken
from cairn_quota.people import Invitation, Membership, User


def user_message(user: User) -> user_pb2.User:
    """As User on the wire."""
    return user_pb2.User(
        name=user.subject,
        uid=user.uid,
        display_name=user.display_name,
        create_time=wire.timestamp(user.create_time),
        update_time=wire.timestamp(user.update_time),
        state=user_pb2.User.State.ValueType(user.state),
        kind=user_pb2.User.Kind.ValueType(user.kind),
        email=user.email,
        team=f"teams/{user.team}" if user.team else "",
        has_password=user.has_password,
    )


def membership_message(member: Membership) -> membership_pb2.Membership:
    """As Membership on the wire."""
    made = membership_pb2.Membership(
        name=f"teams/{member.team}/members/{member.subject.removeprefix('users/')}",
        user=member.subject,
        role=token_pb2.Role.ValueType(member.role),
    )
    if member.user is not None:
        made.display_name, made.email = member.user.display_name, member.user.email
        made.kind = user_pb2.User.Kind.ValueType(member.user.kind)
        made.state = user_pb2.User.State.ValueType(member.user.state)
    return made


def session_message(session: NewToken, user: User, secret: str) -> user_service_pb2.Session:
    """As Session on the wire, with the secret that is shown once."""
    return user_service_pb2.Session(
        token=wire.token_message(session.token), secret=secret, user=user_message(user)
    )


def invitation_message(invitation: Invitation, *, now: datetime) -> invitation_pb2.Invitation:
    """As Invitation on the wire."""
    return invitation_pb2.Invitation(
        name=f"teams/{invitation.team}/invitations/{invitation.uid}",
        uid=invitation.uid,
        email=invitation.email,
        role=token_pb2.Role.ValueType(invitation.role or 0),
        create_time=wire.timestamp(invitation.create_time),
        expire_time=wire.timestamp(invitation.expire_time),
        state=invitation_pb2.Invitation.State.ValueType(invitation.state(now)),
        creator=invitation.creator,
        user=invitation.subject,
    )

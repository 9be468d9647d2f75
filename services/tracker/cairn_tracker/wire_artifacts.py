"""Artifacts as the protos have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cairn.tracker.v1 import artifact_pb2, keeping_pb2
from cairn_tracker import wire
from cairn_tracker.manifest import Entry, Part
from cairn_tracker.store.artifacts import Artifact, Version
from cairn_tracker.store.expiry import Expired
from cairn_tracker.store.keeping import RecordRule, Rule, Rules
from cairn_tracker.store.usage import Usage

#: Bytes of entries in one message, about: some 10,000 files of one part.
_MOST_WEIGHT = 2_500_000


def artifact(value: Artifact) -> artifact_pb2.Artifact:
    """An artifact as the API has it."""
    return artifact_pb2.Artifact(
        name=f"teams/{value.team}/artifacts/{value.id}",
        uid=value.uid,
        kind=artifact_pb2.ArtifactKind.ValueType(value.kind),
        create_time=wire.stamp(value.create_time),
        latest_version=value.latest_version,
        aliases=value.aliases,
    )


def version(value: Version, *, entries: bool = True) -> artifact_pb2.ArtifactVersion:
    """A version as the API has it; in lists and facts without its entries, as where they are too many."""
    many = len(as_many_as_fit(value.entries)) < len(value.entries)
    return artifact_pb2.ArtifactVersion(
        name=value.name,
        uid=value.uid,
        kind=artifact_pb2.ArtifactKind.ValueType(value.kind),
        version=value.number,
        create_time=wire.stamp(value.create_time),
        creator=value.creator,
        run=wire.run_name(value.team, value.run_uid) if value.run_uid else "",
        step=value.step,
        metadata=wire.struct(value.metadata),
        entries=[_entry(entry) for entry in value.entries] if entries and not many else [],
        entry_count=len(value.entries) if entries else 0,
        size=value.size,
        digest=value.digest,
        aliases=value.aliases,
        sources=value.sources,
        pinned_by=value.pinner,
    )


def part(message: artifact_pb2.ArtifactPart) -> Part:
    """A part as it was sent."""
    return Part(message.digest, message.size)


def entry(message: artifact_pb2.ArtifactEntry) -> Entry:
    """An entry as it was sent."""
    return Entry(message.path, message.size, message.digest, [part(item) for item in message.parts])


def keeping(value: Rules) -> keeping_pb2.Keeping:
    """How a team keeps what it has, as the API has it."""
    return keeping_pb2.Keeping(
        protected_aliases=value.protected_aliases,
        retention=[_rule(item) for item in value.retention],
        records=[_record_rule(item) for item in value.records],
        etag=str(value.revision),
    )


def rules(message: keeping_pb2.Keeping) -> Rules:
    """How a team is to keep what it has, as it was sent."""
    return Rules(
        list(message.protected_aliases),
        [rule(item) for item in message.retention],
        [record_rule(item) for item in message.records],
    )


def rule(message: keeping_pb2.RetentionRule) -> Rule:
    """A rule as it was sent."""
    return Rule(
        kind=message.kind,
        experiment=message.experiment,
        keep_last=message.keep_last,
        keep_best=message.keep_best,
        metric=message.metric,
        lowest=message.lowest,
        keep_for=message.keep_for.ToNanoseconds() / 1e9,
    )


def record_rule(message: keeping_pb2.RecordRule) -> RecordRule:
    """A rule for points or lines as it was sent."""
    return RecordRule(message.record, message.experiment, message.keep_for.ToNanoseconds() / 1e9)


def expiring(team: str, value: Expired) -> keeping_pb2.Expiring:
    """A run whose points or lines go, as the API has it."""
    return keeping_pb2.Expiring(
        run=wire.run_name(team, value.uid),
        display_name=value.display_name,
        experiment=f"teams/{team}/experiments/{value.experiment}",
        quiet_time=wire.stamp(value.quiet),
        points=value.points,
        lines=value.lines,
    )


def usage(value: Usage, by: str) -> keeping_pb2.StorageUsage.Row:
    """What lies in the store, as the API has it."""
    key = value.key
    if by == "kind":
        key = artifact_pb2.ArtifactKind.Name(artifact_pb2.ArtifactKind.ValueType(int(key)))
    return keeping_pb2.StorageUsage.Row(
        key=key, versions=value.versions, logical_size=value.logical, stored_size=value.stored
    )


def rotten(value: Version, parts: Mapping[str, bool]) -> list[keeping_pb2.RottenFile]:
    """The files of a version, given with its entries, that have one of these parts; whether it is missing."""
    found = []
    for item in value.entries:
        bad = [part.digest for part in item.parts if part.digest in parts]
        if bad:
            missing = any(parts[digest] for digest in bad)
            found.append(keeping_pb2.RottenFile(path=item.path, digests=bad, missing=missing))
    return found


def _rule(value: Rule) -> keeping_pb2.RetentionRule:
    made = keeping_pb2.RetentionRule(
        kind=artifact_pb2.ArtifactKind.ValueType(value.kind),
        experiment=value.experiment,
        keep_last=value.keep_last,
        keep_best=value.keep_best,
        metric=value.metric,
        lowest=value.lowest,
    )
    if value.keep_for:
        made.keep_for.FromNanoseconds(int(value.keep_for * 1e9))
    return made


def _record_rule(value: RecordRule) -> keeping_pb2.RecordRule:
    made = keeping_pb2.RecordRule(
        record=keeping_pb2.Record.ValueType(value.record), experiment=value.experiment
    )
    made.keep_for.FromNanoseconds(int(value.keep_for * 1e9))
    return made


def as_many_as_fit(values: Sequence[Entry]) -> Sequence[Entry]:
    """The first of these that fit into one message, at least one."""
    weight = 0
    for place, value in enumerate(values):
        weight += 120 + len(value.path.encode()) + 76 * len(value.parts)
        if weight > _MOST_WEIGHT and place:
            return values[:place]
    return values


def entries(values: Sequence[Entry]) -> list[artifact_pb2.ArtifactEntry]:
    """Entries as the API has them."""
    return [_entry(value) for value in values]


def _entry(value: Entry) -> artifact_pb2.ArtifactEntry:
    return artifact_pb2.ArtifactEntry(
        path=value.path,
        size=value.size,
        digest=value.digest,
        parts=[artifact_pb2.ArtifactPart(digest=item.digest, size=item.size) for item in value.parts],
    )

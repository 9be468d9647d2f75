"""Another job of what one ran: its code, variables, environment and place, told by a request."""

from __future__ import annotations

import copy
from dataclasses import replace

from cairn.scheduler.v1 import scheduler_pb2
from cairn_common.errors import InvalidArgument, Reason
from cairn_common.ids import new_uid, parse_name
from cairn_scheduler import submit
from cairn_scheduler.model import Job, State
from cairn_scheduler.origin import Origin, OriginKind
from cairn_scheduler.submit import AgainRequest, Draft, Terms
from cairn_scheduler.task import variables

_CHECKPOINT = "teams/{team}/artifacts/{artifact}/versions/{version}"


def draft(source: Job, message: AgainRequest, terms: Terms) -> Draft:
    """One job of what `source` ran. Raises InvalidArgument (TASK_INVALID, FIELD_INVALID) or
    FailedPrecondition (CAPACITY_IMPOSSIBLE)."""
    changed = {
        name: value for name, value in variables(dict(message.envs), "envs").items() if value is not None
    }
    envs = {**source.spec.envs, **changed}
    spec = replace(
        source.spec,
        envs=envs,
        params={**source.spec.params, **changed},
        origin=_origin(source, message),
    )
    # Their values once more: those that came with the other job were erased when it had ended.
    secrets = submit.settled(spec, dict.fromkeys(spec.secrets), message, terms)
    spec = replace(spec, secrets=tuple(secrets.kept))
    submit.check_fit(spec, terms.places)
    job = Job(
        uid="" if message.validate_only else new_uid(),
        team=source.team,
        state=State.PENDING,
        revision=1,
        creator=terms.creator,
        create_time=terms.now,
        update_time=terms.now,
        spec=spec,
        display_name=submit.display_name(message.display_name) or source.display_name,
        experiment=source.experiment,
        code=submit.masked(source.code, secrets.values),
        priority=source.priority,
        project=source.project,
        priority_class=source.priority_class,
        flavors=source.flavors,
        reason=submit.FIRST_REASON,
    )
    told = submit.checked_message(job)
    plain = copy.deepcopy(message)
    plain.secrets.clear()
    plain.secrets.update(dict.fromkeys(spec.secrets, ""))
    return Draft(
        job.team, terms.creator, submit.identified(plain), (job,), secrets=secrets.kept, message=told
    )


def _origin(source: Job, message: AgainRequest) -> Origin:
    if isinstance(message, scheduler_pb2.RerunJobRequest):
        return Origin(OriginKind.RERUN, source.uid)
    if not message.checkpoint:
        raise _bad_checkpoint("is missing: GetLatestCheckpoint of the tracker names the last one")
    try:
        parts = parse_name(_CHECKPOINT, message.checkpoint)
    except InvalidArgument as error:
        raise _bad_checkpoint(error.message) from None
    if parts["team"] != source.team or not parts["version"].isdecimal():
        raise _bad_checkpoint(f"is teams/{source.team}/artifacts/{{artifact}}/versions/{{number}}")
    return Origin(OriginKind.RESUME, source.uid, message.checkpoint)


def unknown(source: Job, message: AgainRequest) -> list[str]:
    """The job's secrets whose values did not come again."""
    return [name for name in source.spec.secrets if name not in message.secrets]


def _bad_checkpoint(message: str) -> InvalidArgument:
    return InvalidArgument(f"checkpoint: {message}", reason=Reason.FIELD_INVALID, field="checkpoint")

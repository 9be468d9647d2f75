"""The one list of reasons that an error can have, each with an example."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why, in one constant word that programs may rely on. Never renamed; only added to."""

    # --- what was sent (INVALID_ARGUMENT)
    # `page_size: -1 is negative; 0 means 100, the most is 1000`
    FIELD_INVALID = "FIELD_INVALID"
    # `display_name is required`
    FIELD_MISSING = "FIELD_MISSING"
    # `team_id: 'My Team' is not an id: 1 to 63 of a-z, 0-9 and -, ...`
    ID_INVALID = "ID_INVALID"
    # `'jobs/1' is not a name of the form teams/{team}/jobs/{job}`
    NAME_INVALID = "NAME_INVALID"
    # `page_token is not one that this listing gave; begin again without it ...`
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"  # noqa: S105
    # `cursor is not one that this call gave`
    CURSOR_INVALID = "CURSOR_INVALID"
    # `the request's bytes are not a CreateJobRequest`
    REQUEST_MALFORMED = "REQUEST_MALFORMED"
    # `update_mask: 'limits.tpus' is not a field that can be changed`
    MASK_INVALID = "MASK_INVALID"
    # `request_id was used before for another request`
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    # `the request id 'r1' has made teams/vision/webhooks/01k...; its secret was told before. ...`
    # (FAILED_PRECONDITION)
    SECRET_TOLD = "SECRET_TOLD"  # noqa: S105
    # `resources.cpus: 'many' is not a number` with metadata path=resources.cpus
    TASK_INVALID = "TASK_INVALID"
    # `tree.vision.quotas.h100.gpu.max: 9 is over the max 8 of acme above it; ...` with metadata path
    TREE_INVALID = "TREE_INVALID"
    # `cairn.sweep.parameters: the grid has 2,000 jobs, the most is 1,000`
    SWEEP_INVALID = "SWEEP_INVALID"
    # `entries: '../x' is not a path inside an artifact`
    ARTIFACT_INVALID = "ARTIFACT_INVALID"
    # `alias: 'v2' looks like a version's number; choose another word`
    ALIAS_INVALID = "ALIAS_INVALID"
    # `Invalid model version source: 'file:///etc/passwd'. ...`
    SOURCE_INVALID = "SOURCE_INVALID"
    # `digest: 'abc' is not a SHA-256 in lower-case hex`
    DIGEST_INVALID = "DIGEST_INVALID"

    # --- who asks (UNAUTHENTICATED)
    # `send a token: authorization: Bearer <token>`
    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105
    # `this token is not known here`
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105
    # `this token expired at 2026-01-01T00:00:00Z; make a new one`
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105
    # `this token was revoked; make a new one`
    TOKEN_REVOKED = "TOKEN_REVOKED"  # noqa: S105
    # `this e-mail address and this password do not go together`
    PASSWORD_WRONG = "PASSWORD_WRONG"  # noqa: S105
    # `this link shows nothing: it was revoked, or its time is over`
    SHARE_INVALID = "SHARE_INVALID"
    # `this invitation is not good: it was used, revoked, or is too old`
    INVITATION_INVALID = "INVITATION_INVALID"

    # `this sign-in was not begun in this browser, or is over; begin again`
    LOGIN_REFUSED = "LOGIN_REFUSED"

    # --- what the caller may do (PERMISSION_DENIED)
    # `nobody has invited ada@lab.example; ask an admin of your team`
    INVITATION_NEEDED = "INVITATION_NEEDED"
    # `needs role member in team main; you are viewer`
    ROLE_TOO_LOW = "ROLE_TOO_LOW"
    # `needs a token of scope write; this one has scope read`
    SCOPE_TOO_LOW = "SCOPE_TOO_LOW"
    # `this token is for run 01j... alone`
    RUN_TOKEN_FOREIGN = "RUN_TOKEN_FOREIGN"  # noqa: S105
    # `this session is the page's own, and another site asks`
    REQUEST_FORGED = "REQUEST_FORGED"
    # `users/ada asked for it; another admin of team main approves it`
    APPROVER_SAME = "APPROVER_SAME"
    # `/cairn.quota.v1.QuotaService/Wipe is not open to anyone`
    METHOD_REFUSED = "METHOD_REFUSED"

    # --- what is not there, or not the caller's to see (NOT_FOUND)
    # `there is no such thing`
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    # `there is no team 'vision'`
    TEAM_NOT_FOUND = "TEAM_NOT_FOUND"
    # `there is no user 'ada'`
    USER_NOT_FOUND = "USER_NOT_FOUND"
    # `there is no token 01j...`
    TOKEN_NOT_FOUND = "TOKEN_NOT_FOUND"  # noqa: S105
    # `there is no member 'ada' in team vision`
    MEMBER_NOT_FOUND = "MEMBER_NOT_FOUND"
    # `there is no invitation 01j... in team vision`
    INVITATION_NOT_FOUND = "INVITATION_NOT_FOUND"
    # `there is no share 01j... in team main`
    SHARE_NOT_FOUND = "SHARE_NOT_FOUND"
    # `there is no webhook 01j... in team main`
    WEBHOOK_NOT_FOUND = "WEBHOOK_NOT_FOUND"
    # `there is no secret HF_TOKEN in team main`
    SECRET_NOT_FOUND = "SECRET_NOT_FOUND"  # noqa: S105
    # `there is no login WDJB-MJHT that waits`
    LOGIN_NOT_FOUND = "LOGIN_NOT_FOUND"
    # `there is no reservation 01j...-1 in team main`
    RESERVATION_NOT_FOUND = "RESERVATION_NOT_FOUND"
    # `there is no job 01j... in team main`
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    # `there is no sweep 01j... in team main`
    SWEEP_NOT_FOUND = "SWEEP_NOT_FOUND"
    # `there is no pool 'gpu'`
    POOL_NOT_FOUND = "POOL_NOT_FOUND"
    # `there is no budget vision-month`
    BUDGET_NOT_FOUND = "BUDGET_NOT_FOUND"
    # `there is no node vision/seg in the quota tree`
    NODE_NOT_FOUND = "NODE_NOT_FOUND"
    # `there is no run 01j... in team main`
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    # `there is no experiment 'digits' in team main`
    EXPERIMENT_NOT_FOUND = "EXPERIMENT_NOT_FOUND"
    # `there is no artifact digits:best in team main`
    ARTIFACT_NOT_FOUND = "ARTIFACT_NOT_FOUND"
    # `Registered Model with name=digits not found`
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    # `Trace with ID 'tr-0123' not found.`
    TRACE_NOT_FOUND = "TRACE_NOT_FOUND"
    # `there is no session 01j... that waits for this attempt`
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    # `run 01j... has no committed checkpoint`
    CHECKPOINT_NOT_FOUND = "CHECKPOINT_NOT_FOUND"
    # `there is no promotion 01j... in team main`
    PROMOTION_NOT_FOUND = "PROMOTION_NOT_FOUND"
    # `team main has no blob 9f86d0...`
    BLOB_NOT_FOUND = "BLOB_NOT_FOUND"
    # `run 01j... has no 'sample' at step 7, item 0`
    MEDIA_NOT_FOUND = "MEDIA_NOT_FOUND"

    # --- what is there already (ALREADY_EXISTS)
    # `it exists already`
    RESOURCE_EXISTS = "RESOURCE_EXISTS"
    # `there is a team 'main' already`
    TEAM_EXISTS = "TEAM_EXISTS"
    # `ada is a member of team vision already`
    MEMBER_EXISTS = "MEMBER_EXISTS"
    # `run 01j... was made by another caller`
    RUN_EXISTS = "RUN_EXISTS"
    # `Registered Model (name=digits) already exists.`
    MODEL_EXISTS = "MODEL_EXISTS"

    # --- the wrong state (FAILED_PRECONDITION)
    # `not in this state`
    STATE_INVALID = "STATE_INVALID"
    # `the team vision would have no owner left; make somebody else one first`
    OWNER_LAST = "OWNER_LAST"
    # `nobody has confirmed the login WDJB-MJHT yet`
    LOGIN_PENDING = "LOGIN_PENDING"
    # `there is a user with this address; give the password once`
    PASSWORD_NEEDED = "PASSWORD_NEEDED"  # noqa: S105
    # `single sign-on is not set up here`
    SIGN_ON_OFF = "SIGN_ON_OFF"
    # `secret HF_TOKEN of team main was sealed with another key than the service has now`
    SECRET_SEALED = "SECRET_SEALED"  # noqa: S105
    # `job 01j... has ended as SUCCEEDED; it cannot be cancelled`
    JOB_ENDED = "JOB_ENDED"
    # `run 01j... has ended`
    RUN_ENDED = "RUN_ENDED"
    # `reservation 01j...-1 has ended; reserve under the next number`
    RESERVATION_ENDED = "RESERVATION_ENDED"
    # `the store lacks 2 of 7 parts; upload them and commit again` with metadata digests=9f86d0...,60303a...
    PARTS_MISSING = "PARTS_MISSING"
    # `weights:v3 is held by alias best; remove that first`
    VERSION_HELD = "VERSION_HELD"
    # `alias production of team main moves with a second person's consent: ask for it`
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    # `nothing listens on port 8888 of the job's node`
    TARGET_REFUSED = "TARGET_REFUSED"
    # `part 9f86d0... has 10 bytes in the store, 12 were declared`
    PART_SIZE_MISMATCH = "PART_SIZE_MISMATCH"
    # `this plan is of epoch 3; one of epoch 4 was seen: another scheduler decides now`
    EPOCH_OLD = "EPOCH_OLD"
    # `pool local has 4 CPUs; the job asks for 8 and could never run`
    CAPACITY_IMPOSSIBLE = "CAPACITY_IMPOSSIBLE"

    # --- changed in between (ABORTED)
    # `etag 'a1' is old; read the team again`
    ETAG_MISMATCH = "ETAG_MISMATCH"
    # `somebody else changed it in the same moment; try again`
    CONFLICT = "CONFLICT"

    # --- limits (RESOURCE_EXHAUSTED)
    # `gpus: the limit of team main is 8, 6 are held, 4 were asked for` with metadata limit, used, requested
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    # `message of 5 MB is larger than 4 MB`
    OVERLOADED = "OVERLOADED"
    # `the most is 50 calls a second; wait 2 s`
    RATE_EXCEEDED = "RATE_EXCEEDED"

    # --- away for now (UNAVAILABLE, DEADLINE_EXCEEDED)
    # `the quota service does not answer`
    NEIGHBOUR_UNAVAILABLE = "NEIGHBOUR_UNAVAILABLE"
    # `the database does not answer`
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    # `the bus does not answer`
    BUS_UNAVAILABLE = "BUS_UNAVAILABLE"
    # `the object store does not answer`
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    # `the provider of single sign-on does not answer`
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    # `the job's runner did not answer within 20 s`
    RUNNER_SILENT = "RUNNER_SILENT"
    # `the connection to the job's node broke; the session has ended`
    SESSION_LOST = "SESSION_LOST"
    # `shutting down; call again`
    SHUTTING_DOWN = "SHUTTING_DOWN"
    # `no answer within 30 s`
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"

    # --- the rest
    # `there is no method /cairn.quota.v1.QuotaService/Wipe` (UNIMPLEMENTED)
    METHOD_UNKNOWN = "METHOD_UNKNOWN"
    # `internal error (id 01j...)` (INTERNAL)
    INTERNAL = "INTERNAL"

-- People and programs by name, how they get in, and who did what.

CREATE TABLE users (
    -- The user is users/{id}; a service account's id is {account}.{team}.
    id text PRIMARY KEY,
    uid text NOT NULL UNIQUE,
    -- cairn.quota.v1.User.Kind: 1 person, 2 service account
    kind smallint NOT NULL CHECK (kind IN (1, 2)),
    -- cairn.quota.v1.User.State: 1 active, 2 disabled
    state smallint NOT NULL CHECK (state IN (1, 2)),
    -- Lower case. NULL: none.
    email text UNIQUE CHECK (email = lower(email) AND email <> ''),
    display_name text NOT NULL,
    -- Of a service account alone.
    team text REFERENCES teams (id),
    -- By argon2id, with its salt and its cost in it. NULL: no password opens anything.
    password_hash text,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    creator text NOT NULL,
    CHECK ((kind = 2) = (team IS NOT NULL)),
    CHECK (kind = 1 OR (password_hash IS NULL AND email IS NULL))
);

CREATE TABLE invitations (
    uid text PRIMARY KEY,
    -- SHA-256 of the secret in the link, hexadecimal. The secret itself is nowhere.
    hash text NOT NULL UNIQUE CHECK (length(hash) = 64),
    team text NOT NULL REFERENCES teams (id),
    email text NOT NULL CHECK (email = lower(email)),
    -- NULL: it sets the password of `subject`, and gives no role.
    role smallint CHECK (role BETWEEN 1 AND 4),
    -- users/{user} whose password it sets.
    subject text,
    creator text NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    accept_time timestamptz,
    revoke_time timestamptz,
    CHECK ((role IS NULL) = (subject IS NOT NULL)),
    CHECK (accept_time IS NULL OR revoke_time IS NULL)
);

CREATE INDEX invitations_by_team ON invitations (team, uid);

-- How often somebody tried to sign in, by what they tried (a hash of it): an account, an address, both.
CREATE TABLE sign_in_attempts (
    key text PRIMARY KEY,
    attempts integer NOT NULL CHECK (attempts >= 0),
    -- From when on they are counted.
    since timestamptz NOT NULL
);

CREATE INDEX sign_in_attempts_by_time ON sign_in_attempts (since);

-- A token that a password or another proof of who one is has opened.
ALTER TABLE tokens ADD COLUMN session boolean NOT NULL DEFAULT false;

-- Who did what, when, from where. Append-only; written in the transaction that does it.
CREATE TABLE audit_entries (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL,
    -- users/{user}, services/{service}, or empty: nobody was known yet.
    actor text NOT NULL,
    token_uid text NOT NULL,
    request_id text NOT NULL,
    -- As the door tells it, and the connection that it came by.
    address text NOT NULL,
    peer text NOT NULL,
    -- <resource>.<past participle>, such as member.added
    action text NOT NULL,
    -- Empty: it belongs to no team.
    team text NOT NULL,
    resource text NOT NULL,
    -- No secret, ever.
    detail jsonb NOT NULL
);

CREATE INDEX audit_entries_by_team ON audit_entries (team, seq);
CREATE INDEX audit_entries_by_actor ON audit_entries (actor, seq);
CREATE INDEX audit_entries_by_action ON audit_entries (action, seq);

CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

REVOKE UPDATE, DELETE, TRUNCATE ON audit_entries FROM CURRENT_USER;

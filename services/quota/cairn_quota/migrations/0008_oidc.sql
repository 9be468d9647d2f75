-- Single sign-on: who is whom at the provider, and logins on their way.

CREATE TABLE identities (
    issuer text NOT NULL,
    -- The provider's own id of somebody: never given to anybody else, as an address may be.
    subject text NOT NULL,
    user_id text NOT NULL REFERENCES users (id),
    create_time timestamptz NOT NULL,
    PRIMARY KEY (issuer, subject)
);

CREATE INDEX identities_by_user ON identities (user_id);

-- A browser that is at the provider. Nonce and PKCE's verifier follow from the two secrets, which are not here.
CREATE TABLE oidc_logins (
    -- SHA-256, hexadecimal; as the next one.
    state_hash text PRIMARY KEY CHECK (length(state_hash) = 64),
    binding_hash text NOT NULL CHECK (length(binding_hash) = 64),
    return_path text NOT NULL,
    expire_time timestamptz NOT NULL
);

CREATE INDEX oidc_logins_by_time ON oidc_logins (expire_time);

-- Somebody whom the provider knows, and who has yet to give the password of the user with their address.
CREATE TABLE oidc_proofs (
    binding_hash text PRIMARY KEY CHECK (length(binding_hash) = 64),
    issuer text NOT NULL,
    subject text NOT NULL,
    email text NOT NULL,
    display_name text NOT NULL,
    -- NULL: the provider did not say.
    groups text[],
    return_path text NOT NULL,
    expire_time timestamptz NOT NULL
);

CREATE INDEX oidc_proofs_by_time ON oidc_proofs (expire_time);

-- Roles that somebody has by a group at the provider: they go with it.
CREATE TABLE group_roles (
    subject text NOT NULL,
    team text NOT NULL REFERENCES teams (id),
    role smallint NOT NULL CHECK (role BETWEEN 1 AND 3),
    PRIMARY KEY (subject, team)
);

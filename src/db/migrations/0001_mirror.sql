-- The mirror and the history. Forward only: a migration that has been released is never edited, and adds only, so that
-- the replica before it can still write.
--
-- Ids are Kubernetes UIDs. `epoch` and `resource_version` together say how new a row is: resource versions grow within
-- one life of etcd, and a restored etcd begins a new epoch. A row of an object that is gone keeps its last state and
-- has `deleted_at`.

CREATE TABLE mirror_state (
    singleton   BOOLEAN PRIMARY KEY DEFAULT true CHECK (singleton),
    cluster_uid UUID,
    epoch       BIGINT NOT NULL DEFAULT 1,
    writer      BIGINT NOT NULL DEFAULT 0,
    taken_at    TIMESTAMPTZ
);
INSERT INTO mirror_state DEFAULT VALUES;
COMMENT ON TABLE mirror_state IS 'One row: which cluster this database mirrors and who may write.';
COMMENT ON COLUMN mirror_state.cluster_uid IS 'UID of the namespace kube-system of the mirrored cluster. Set to NULL to hand the database to another cluster.';
COMMENT ON COLUMN mirror_state.epoch IS 'Raised when rows turn out newer than the cluster: etcd was restored.';
COMMENT ON COLUMN mirror_state.writer IS 'Raised by each process that takes over; whoever holds an older number may not write any more.';

CREATE TABLE tenants (
    uid              UUID PRIMARY KEY,
    name             TEXT NOT NULL,
    display_name     TEXT,
    namespace        TEXT,
    plan             TEXT,
    status           TEXT,
    quotas           JSONB,
    usage            JSONB,
    metadata         JSONB,
    created_at       TIMESTAMPTZ NOT NULL,
    expires_at       TIMESTAMPTZ,
    deleted_at       TIMESTAMPTZ,
    epoch            BIGINT NOT NULL,
    resource_version BIGINT NOT NULL
);
CREATE UNIQUE INDEX tenants_living_name ON tenants (name) WHERE deleted_at IS NULL;
COMMENT ON COLUMN tenants.status IS 'status.phase: Active, Suspended, Expired or Terminating; NULL before the first look.';
COMMENT ON COLUMN tenants.created_at IS 'Where only pods of the tenant were ever seen: when the first of them was created.';

CREATE TABLE nodes (
    uid              UUID PRIMARY KEY,
    name             TEXT NOT NULL,
    requested_group  TEXT,
    admitted_group   TEXT,
    tenant_uid       UUID REFERENCES tenants (uid),
    ready            BOOLEAN NOT NULL,
    cpu_millicores   BIGINT,
    memory_bytes     BIGINT,
    gpus             BIGINT,
    created_at       TIMESTAMPTZ NOT NULL,
    deleted_at       TIMESTAMPTZ,
    epoch            BIGINT NOT NULL,
    resource_version BIGINT NOT NULL
);
CREATE UNIQUE INDEX nodes_living_name ON nodes (name) WHERE deleted_at IS NULL;
CREATE INDEX nodes_tenant ON nodes (tenant_uid) WHERE tenant_uid IS NOT NULL;
COMMENT ON COLUMN nodes.requested_group IS 'Tenant, or pool.<name>, that an administrator labelled the node for.';
COMMENT ON COLUMN nodes.admitted_group IS 'Tenant, or pool.<name>, that the node is admitted to.';
COMMENT ON COLUMN nodes.tenant_uid IS 'The tenant it is admitted to; NULL for a shared pool.';
COMMENT ON COLUMN nodes.cpu_millicores IS 'Allocatable, as are memory and GPUs.';

CREATE TABLE jobs (
    uid              UUID PRIMARY KEY,
    tenant_uid       UUID NOT NULL REFERENCES tenants (uid),
    namespace        TEXT NOT NULL,
    name             TEXT NOT NULL,
    queue            TEXT,
    priority         TEXT,
    phase            TEXT,
    reason           TEXT,
    message          TEXT,
    attempt          INTEGER NOT NULL,
    retries          INTEGER NOT NULL,
    node             TEXT,
    exit_code        INTEGER,
    spec             JSONB,
    created_at       TIMESTAMPTZ NOT NULL,
    assigned_at      TIMESTAMPTZ,
    started_at       TIMESTAMPTZ,
    finished_at      TIMESTAMPTZ,
    deleted_at       TIMESTAMPTZ,
    epoch            BIGINT NOT NULL,
    resource_version BIGINT NOT NULL
);
CREATE INDEX jobs_tenant_created ON jobs (tenant_uid, created_at, uid);
CREATE UNIQUE INDEX jobs_living_name ON jobs (namespace, name) WHERE deleted_at IS NULL;
COMMENT ON COLUMN jobs.phase IS 'NULL: the job itself was never seen, only its pods.';
COMMENT ON COLUMN jobs.spec IS 'As submitted, without the values of env: people put passwords there.';
COMMENT ON COLUMN jobs.created_at IS 'Where only pods of the job were ever seen: when the first of them was created.';

CREATE TABLE job_attempts (
    job_uid        UUID NOT NULL REFERENCES jobs (uid),
    attempt        INTEGER NOT NULL CHECK (attempt > 0),
    tenant_uid     UUID NOT NULL REFERENCES tenants (uid),
    pod            TEXT NOT NULL,
    node           TEXT,
    started_at     TIMESTAMPTZ,
    finished_at    TIMESTAMPTZ NOT NULL,
    reason         TEXT NOT NULL,
    exit_code      INTEGER,
    cpu_millicores BIGINT NOT NULL,
    memory_bytes   BIGINT NOT NULL,
    gpus           BIGINT NOT NULL,
    bandwidth_mbps BIGINT NOT NULL,
    PRIMARY KEY (job_uid, attempt)
);
CREATE INDEX job_attempts_tenant ON job_attempts (tenant_uid, finished_at);
COMMENT ON TABLE job_attempts IS 'Attempts that ended, as they ended. Written once, never changed.';
COMMENT ON COLUMN job_attempts.started_at IS 'NULL: its container never started.';

-- NUMERIC: the memory of one attempt of 1 TiB over a day is 9.5e19 byte-milliseconds, more than BIGINT holds (9.2e18).
CREATE TABLE usage_events (
    job_uid               UUID NOT NULL,
    attempt               INTEGER NOT NULL,
    tenant_uid            UUID NOT NULL REFERENCES tenants (uid),
    started_at            TIMESTAMPTZ,
    finished_at           TIMESTAMPTZ NOT NULL,
    running_millis        BIGINT NOT NULL CHECK (running_millis >= 0),
    cpu_millicore_millis  NUMERIC(38) NOT NULL CHECK (cpu_millicore_millis >= 0),
    memory_byte_millis    NUMERIC(38) NOT NULL CHECK (memory_byte_millis >= 0),
    gpu_millis            NUMERIC(38) NOT NULL CHECK (gpu_millis >= 0),
    bandwidth_mbps_millis NUMERIC(38) NOT NULL CHECK (bandwidth_mbps_millis >= 0),
    recorded_at           TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (job_uid, attempt),
    FOREIGN KEY (job_uid, attempt) REFERENCES job_attempts (job_uid, attempt)
);
CREATE INDEX usage_events_tenant ON usage_events (tenant_uid, finished_at);
COMMENT ON TABLE usage_events IS 'What each attempt is charged: requested amount x running time. One row per attempt, also for one that never ran (all 0).';
COMMENT ON COLUMN usage_events.cpu_millicore_millis IS 'Thousandths of a core x milliseconds.';
COMMENT ON COLUMN usage_events.memory_byte_millis IS 'Bytes x milliseconds.';
COMMENT ON COLUMN usage_events.gpu_millis IS 'GPUs x milliseconds.';
COMMENT ON COLUMN usage_events.bandwidth_mbps_millis IS 'Mbit/s x milliseconds.';

CREATE TABLE usage_hourly (
    tenant_uid            UUID NOT NULL REFERENCES tenants (uid),
    hour                  TIMESTAMPTZ NOT NULL,
    running_millis        NUMERIC NOT NULL CHECK (running_millis >= 0),
    cpu_millicore_millis  NUMERIC NOT NULL CHECK (cpu_millicore_millis >= 0),
    memory_byte_millis    NUMERIC NOT NULL CHECK (memory_byte_millis >= 0),
    gpu_millis            NUMERIC NOT NULL CHECK (gpu_millis >= 0),
    bandwidth_mbps_millis NUMERIC NOT NULL CHECK (bandwidth_mbps_millis >= 0),
    PRIMARY KEY (tenant_uid, hour)
);
COMMENT ON TABLE usage_hourly IS 'Sums of usage_events, each split at the full hours (UTC), kept in the same transaction.';
COMMENT ON COLUMN usage_hourly.hour IS 'When the hour began.';

CREATE TABLE api_keys (
    key_id           TEXT PRIMARY KEY,
    api_key_uid      UUID NOT NULL,
    tenant_uid       UUID NOT NULL REFERENCES tenants (uid),
    name             TEXT NOT NULL,
    mac              BYTEA NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL,
    expires_at       TIMESTAMPTZ,
    revoked_at       TIMESTAMPTZ,
    last_used_at     TIMESTAMPTZ,
    deleted_at       TIMESTAMPTZ,
    epoch            BIGINT NOT NULL,
    resource_version BIGINT NOT NULL
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_uid, created_at);
CREATE INDEX api_keys_object ON api_keys (api_key_uid);
COMMENT ON TABLE api_keys IS 'Versions of TenantApiKey objects, for lists and history; authentication never reads it. Written by the key controller''s mirror; empty until there is one.';
COMMENT ON COLUMN api_keys.key_id IS 'The public part of the key''s text.';
COMMENT ON COLUMN api_keys.api_key_uid IS 'The TenantApiKey; two versions of one are valid while it rotates.';
COMMENT ON COLUMN api_keys.mac IS 'HMAC-SHA256 of key id and secret under the pepper. Never the secret.';

CREATE TABLE audit_log (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          TIMESTAMPTZ NOT NULL,
    tenant_uid  UUID REFERENCES tenants (uid),
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    object_kind TEXT NOT NULL,
    object_uid  UUID,
    object_name TEXT NOT NULL,
    outcome     TEXT NOT NULL,
    details     JSONB
);
CREATE INDEX audit_log_tenant ON audit_log (tenant_uid, at);
CREATE INDEX audit_log_object ON audit_log (object_uid, at);
COMMENT ON TABLE audit_log IS 'Who asked for what through the REST API, and the answer. Written by the API; empty until there is one.';
COMMENT ON COLUMN audit_log.tenant_uid IS 'NULL: an administrator''s act on no tenant.';
COMMENT ON COLUMN audit_log.actor IS 'Key id, or user name of an administrator. Never the text of a key or token.';

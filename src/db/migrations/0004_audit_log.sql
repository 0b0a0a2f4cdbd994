-- The audit log as the REST API writes it: the fields of a line of its log. The table of the first migration was never
-- written and lacks some of them, so it is replaced; no replica of a version before this one uses it.
--
-- No foreign key to `tenants`: an entry is written by whichever replica answered the request, and waits neither for the
-- mirror, which has the tenant's row later, nor for a tenant to exist at all (a refused request may name any).
--
-- Lists go by (at, id), the newest first. Each filter has an index in that order.
DROP TABLE audit_log;
CREATE TABLE audit_log (
    at             TIMESTAMPTZ NOT NULL,
    id             UUID NOT NULL,
    request_id     TEXT NOT NULL,
    caller_kind    TEXT NOT NULL,
    caller         TEXT,
    tenant         TEXT,
    tenant_uid     UUID,
    action         TEXT NOT NULL,
    object         TEXT,
    made           TEXT,
    status         INTEGER,
    client_address TEXT,
    PRIMARY KEY (at, id)
);
CREATE INDEX audit_log_tenant ON audit_log (tenant, at, id);
CREATE INDEX audit_log_tenant_uid ON audit_log (tenant_uid, at, id);
CREATE INDEX audit_log_caller ON audit_log (caller, at, id);
COMMENT ON TABLE audit_log IS 'Who requested which change through the REST API, and the status of the response. Written by every replica; entries older than the retention are deleted.';
COMMENT ON COLUMN audit_log.at IS 'When the response was ready, or the client disconnected.';
COMMENT ON COLUMN audit_log.id IS 'Made by the replica, so that an entry that is written twice is stored once.';
COMMENT ON COLUMN audit_log.caller_kind IS 'key, user, administrator or unknown.';
COMMENT ON COLUMN audit_log.caller IS 'Public id of the key, or name of the user. Never a token.';
COMMENT ON COLUMN audit_log.tenant IS 'Name of the tenant; what the request names where no such tenant existed.';
COMMENT ON COLUMN audit_log.tenant_uid IS 'UID of the tenant, where it was known.';
COMMENT ON COLUMN audit_log.action IS 'Method and route.';
COMMENT ON COLUMN audit_log.object IS 'Name or UID of the object of the path, or the node of the body.';
COMMENT ON COLUMN audit_log.made IS 'UID of the object that was created.';
COMMENT ON COLUMN audit_log.status IS 'NULL: the client disconnected before the response; the request may have succeeded.';

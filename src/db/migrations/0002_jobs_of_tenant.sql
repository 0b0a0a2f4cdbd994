-- One job of a tenant is found among that tenant's jobs alone. By the primary key, the row of another tenant's job would
-- be read before it is refused, which takes longer than to find none: whoever asks could tell which ids exist. The
-- primary key can't serve an expression, so it is this index that is used, whatever the statistics say.
CREATE INDEX jobs_of_tenant ON jobs (tenant_uid, (uid::text));

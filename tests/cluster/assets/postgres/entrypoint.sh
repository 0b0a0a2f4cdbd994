#!/bin/sh
# Starts Postgres as the entrypoint of the official image does for a user that is not root: a new data directory gets the
# superuser POSTGRES_USER with POSTGRES_PASSWORD and the database POSTGRES_DB, while the server listens to no network; one that
# exists is used as it is.
set -eu
mkdir -p "$PGDATA"
# Neither is this user's own where a volume is mounted; the official one ignores that, too.
chmod 0700 "$PGDATA" || :
chmod 3775 /var/run/postgresql || :
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    password=/tmp/password
    printf '%s\n' "${POSTGRES_PASSWORD:?}" >"$password"
    initdb --username="$POSTGRES_USER" --pwfile="$password" --encoding=UTF8 --locale=C -D "$PGDATA"
    rm "$password"
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    createdb --username="$POSTGRES_USER" --maintenance-db=postgres "$POSTGRES_DB"
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec postgres

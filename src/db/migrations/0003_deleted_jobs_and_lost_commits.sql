-- `commits` lets the writer notice that the database went back: a standby was promoted that lacked the last transactions,
-- or a backup was restored. `server` names the server and its timeline, so that the next process notices it as well.
ALTER TABLE mirror_state ADD COLUMN commits BIGINT NOT NULL DEFAULT 0;
ALTER TABLE mirror_state ADD COLUMN server TEXT;
COMMENT ON COLUMN mirror_state.commits IS 'Raised by each transaction of the mirror. A number below what the writer has seen committed: transactions were lost.';
COMMENT ON COLUMN mirror_state.server IS 'System identifier and timeline of the server when the mirror was last taken over; NULL where the server does not say.';

-- A job that is deleted before its end has no end of its own: the mirror writes one.
ALTER TABLE jobs ADD COLUMN deleted_phase TEXT;
COMMENT ON COLUMN jobs.deleted_phase IS 'The phase in which the job was deleted, where that was no end; phase, reason and finished_at are then the mirror''s.';

-- Those that were deleted before this migration (the same rule as `end_deleted` in src/db/jobs.rs).
UPDATE jobs j SET
    deleted_phase = k.phase,
    phase = CASE a.reason WHEN 'Succeeded' THEN 'Completed' WHEN 'DeadlineExceeded' THEN 'TimedOut'
                          WHEN 'NonZeroExit' THEN 'Failed' WHEN 'OutOfMemory' THEN 'Failed' ELSE 'Canceled' END,
    reason = CASE WHEN a.reason IN ('Succeeded', 'DeadlineExceeded', 'NonZeroExit', 'OutOfMemory') THEN a.reason
                  ELSE 'JobDeleted' END,
    message = CASE WHEN a.reason IN ('Succeeded', 'NonZeroExit', 'OutOfMemory') THEN 'exit code ' || a.exit_code
                   WHEN a.reason = 'DeadlineExceeded' THEN 'ran longer than its timeout'
                   WHEN k.phase IN ('Queued', 'Retrying') AND a.attempt IS NULL THEN 'the job was deleted while it waited'
                   ELSE 'the job was deleted before it had ended' END,
    attempt = greatest(k.attempt, a.attempt),
    node = coalesce(a.node, k.node),
    started_at = coalesce(a.started_at, k.started_at),
    exit_code = coalesce(a.exit_code, k.exit_code),
    finished_at = coalesce(a.finished_at, greatest(k.deleted_at, k.created_at))
FROM jobs k LEFT JOIN LATERAL (
    SELECT * FROM job_attempts a
    WHERE a.job_uid = k.uid
      AND (a.attempt > k.attempt OR a.attempt = k.attempt AND k.phase IN ('Assigned', 'Running'))
    ORDER BY a.attempt DESC LIMIT 1
) a ON true
WHERE j.uid = k.uid AND k.deleted_at IS NOT NULL AND k.phase IN ('Queued', 'Assigned', 'Running', 'Retrying');

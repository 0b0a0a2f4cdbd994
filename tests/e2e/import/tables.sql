-- The tables of the job service that Crofter replaces, in its second phase. `single.sql` makes those of the first.
CREATE TABLE tenants (
    id text PRIMARY KEY,
    name text NOT NULL UNIQUE,
    display_name text NOT NULL,
    status text NOT NULL DEFAULT 'active',
    plan text NOT NULL DEFAULT 'free',
    quotas jsonb NOT NULL,
    usage jsonb NOT NULL,
    metadata jsonb,
    created_at timestamp NOT NULL,
    updated_at timestamp NOT NULL,
    expires_at timestamp
);
CREATE TABLE nodes (
    id text PRIMARY KEY,
    name text NOT NULL DEFAULT '',
    tenant_id text REFERENCES tenants (id) ON DELETE CASCADE,
    address text NOT NULL UNIQUE,
    type text NOT NULL,
    cpu_threads integer NOT NULL,
    cpu_model text NOT NULL,
    cpu_load_percent real NOT NULL DEFAULT 0.0,
    has_gpu boolean NOT NULL DEFAULT false,
    gpu_type text,
    gpu_capabilities jsonb,
    ram_total_bytes bigint NOT NULL DEFAULT 0,
    ram_free_bytes bigint NOT NULL DEFAULT 0,
    labels jsonb,
    status text NOT NULL,
    last_heartbeat timestamp NOT NULL,
    registered_at timestamp NOT NULL,
    current_job_id text
);
CREATE TABLE jobs (
    id text PRIMARY KEY,
    sequence_number integer NOT NULL UNIQUE,
    tenant_id text REFERENCES tenants (id) ON DELETE CASCADE,
    scenario text NOT NULL,
    confidence text,
    engine text NOT NULL DEFAULT 'auto',
    parameters jsonb,
    status text NOT NULL,
    queue text DEFAULT 'default',
    priority text DEFAULT 'medium',
    progress integer DEFAULT 0,
    node_id text,
    created_at timestamp NOT NULL,
    started_at timestamp,
    last_activity_at timestamp,
    completed_at timestamp,
    retry_count integer NOT NULL DEFAULT 0,
    max_retries integer DEFAULT 3,
    retry_reason text,
    error text,
    failure_reason text,
    logs text,
    state_transitions jsonb
);
INSERT INTO tenants (id, name, display_name, status, plan, quotas, usage, metadata, created_at, updated_at, expires_at) VALUES
('default', 'default', 'Default Tenant', 'active', 'enterprise',
 '{"max_jobs": 1000, "max_workers": 100, "max_jobs_per_hour": 10000, "max_cpu_cores": 256, "max_gpus": 16, "max_storage_gb": 10000, "max_bandwidth_mbps": 100000, "job_timeout_minutes": 1440}',
 '{"active_jobs": 0}', '{}', now(), now(), NULL),
('b2c4', 'Moved Corp.', 'Moved Corporation', 'active', 'basic',
 '{"max_jobs": 30, "max_workers": 5, "max_jobs_per_hour": 0, "max_cpu_cores": 16, "max_gpus": 1, "max_storage_gb": 100, "max_bandwidth_mbps": 1000, "job_timeout_minutes": 120}',
 '{"active_jobs": 1}', '{"billing": {"account": 7}}', now(), now(), '2099-01-01 00:00:00'),
('c3d5', 'moved-late', 'Late', 'suspended', 'pro', '{}', '{}', NULL, now(), now(), NULL),
('d4e6', 'moved-gone', 'Gone', 'deleted', 'free', '{}', '{}', NULL, now(), now(), NULL);
INSERT INTO nodes (id, name, tenant_id, address, type, cpu_threads, cpu_model, status, last_heartbeat, registered_at) VALUES
('n-1', 'encoder-1', 'b2c4', '10.0.0.5:9000', 'server', 16, 'x', 'available', now(), now()),
('n-2', '', NULL, '10.0.0.6:9000', 'server', 16, 'x', 'offline', now(), now());
INSERT INTO jobs (id, sequence_number, tenant_id, scenario, parameters, status, queue, priority, created_at, retry_count, logs) VALUES
('j-1', 1, 'b2c4', '4K60-h264', '{"run-seconds": 1}', 'completed', 'live', 'high', now() - interval '9 hours', 0, repeat('x', 100000)),
('j-2', 2, 'b2c4', '4K60-h264', '{"run-seconds": 1, "bitrate": "5M"}', 'queued', 'live', 'high', now() - interval '2 hours', 0, NULL),
('j-3', 3, 'b2c4', '4K60-h264', NULL, 'running', 'default', 'medium', now() - interval '1 hour', 0, NULL),
('j-4', 4, NULL, '4K60-h264', '{"run-seconds": 1}', 'pending', NULL, NULL, now() - interval '3 hours', 0, NULL),
('j-5', 5, 'b2c4', '4K60-h264', '{"a b": 1}', 'retrying', 'batch', 'low', now(), 1, NULL),
('j-6', 6, 'c3d5', '4K60-h264', '{}', 'queued', 'batch', 'low', now(), 2, NULL),
('j-7', 7, 'd4e6', '4K60-h264', '{}', 'queued', 'batch', 'low', now(), 0, NULL);

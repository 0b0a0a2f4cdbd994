// Runs one job by the TypeScript client that @hey-api/openapi-ts makes of docs/openapi.json, and prints what it saw.

import { strict as assert } from 'node:assert';
import { setTimeout } from 'node:timers/promises';

import { client } from './client/client.gen';
import { getJob, listJobs, submitJob, whoami } from './client/sdk.gen';
import type { Job, JobCreate, Problem } from './client/types.gen';

const { CROFTER_URL, CROFTER_KEY } = process.env;
assert(CROFTER_URL && CROFTER_KEY);
// The client sends the key in both headers that the document has for it.
client.setConfig({ baseUrl: CROFTER_URL, auth: CROFTER_KEY });

async function refused(body: JobCreate): Promise<[number, string]> {
  const { error, response } = await submitJob({ body });
  assert(error, 'the job should have been refused');
  const problem: Problem = error;
  assert(problem.detail && response?.headers.get('x-request-id'));
  return [problem.status, problem.code];
}

async function main(): Promise<void> {
  const caller = (await whoami({ throwOnError: true })).data;
  assert(caller.kind === 'key' && caller.scopes.includes('jobs:write'));

  const invalid = await refused({});
  const work: JobCreate = {
    image: 'crofter.test/busybox:1',
    resources: { cpu: '100m', memory: '64Mi' },
    parameters: { RUN_SECONDS: '1' },
  };
  let job: Job = (await submitJob({ body: work, throwOnError: true })).data;

  const deadline = Date.now() + 60_000;
  while (job.finished_at === null) {
    assert(Date.now() < deadline, JSON.stringify(job));
    await setTimeout(200);
    job = (await getJob({ path: { id: job.id }, throwOnError: true })).data;
  }
  assert.equal(job.exit_code, 0);

  const page = (await listJobs({ query: { limit: 10, status: 'completed' }, throwOnError: true })).data;
  console.log(
    JSON.stringify({
      caller: caller.kind,
      invalid,
      job: job.id,
      status: job.status,
      cpu: job.resources?.cpu,
      listed: page.jobs.map((one) => one.id),
      next_cursor: page.next_cursor,
      refused: await refused(work),
    }),
  );
}

void main();

"""Runs one job by the Python client that openapi-python-client makes of docs/openapi.json, and prints what it saw."""

import importlib
import json
import os
import pkgutil
import time

import crofter_client
from crofter_client import AuthenticatedClient
from crofter_client.api.jobs import get_job, list_jobs, submit_job
from crofter_client.api.keys import whoami
from crofter_client.models import Job, JobCreate, JobCreateParameters, JobStatus, KeyCaller, Problem, Resources

# Every module that was generated can be imported.
for module in pkgutil.walk_packages(crofter_client.__path__, "crofter_client."):
    importlib.import_module(module.name)

client = AuthenticatedClient(
    base_url=os.environ["CROFTER_URL"],
    token=os.environ["CROFTER_KEY"],
    raise_on_unexpected_status=True,
)


def submit(**fields) -> Job | Problem:
    answer = submit_job.sync(client=client, body=JobCreate(**fields))
    assert isinstance(answer, (Job, Problem)), answer
    # What was read is written as it was.
    assert type(answer).from_dict(answer.to_dict()) == answer, answer
    return answer


def refused(**fields) -> list:
    problem = submit(**fields)
    assert isinstance(problem, Problem) and problem.detail, problem
    return [problem.status, problem.code.value]


caller = whoami.sync(client=client)
assert isinstance(caller, KeyCaller), caller

invalid = refused()
work = {
    "image": "crofter.test/busybox:1",
    "resources": Resources(cpu="100m", memory="64Mi"),
    "parameters": JobCreateParameters.from_dict({"RUN_SECONDS": "1"}),
}
job = submit(**work)
assert isinstance(job, Job) and job.name, job

deadline = time.monotonic() + 60
while job.finished_at is None:
    assert time.monotonic() < deadline, job
    time.sleep(0.2)
    job = get_job.sync(job.id, client=client)
    assert isinstance(job, Job), job
assert job.status is JobStatus.COMPLETED and job.exit_code == 0, job

page = list_jobs.sync(client=client, limit=10, status=JobStatus.COMPLETED)
print(
    json.dumps(
        {
            "caller": caller.kind.value,
            "invalid": invalid,
            "job": job.id,
            "status": job.status.value,
            "cpu": job.resources.cpu,
            "listed": [one.id for one in page.jobs],
            "next_cursor": page.next_cursor,
            "refused": refused(**work),
        }
    )
)

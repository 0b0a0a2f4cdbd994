"""A DAG of Airflow whose tasks are jobs of Crofter (docs/recipes/airflow.md).

The connection `crofter` (type HTTP) has the URL of the REST API as host, such as https://crofter.example.org, and an API key as
password. A task submits a job, gives its slot back while the job runs, and fails when the job does.
"""

import json
import urllib.request
from datetime import datetime

from airflow.exceptions import AirflowException
from airflow.sdk import BaseHook, dag, task
from airflow.sdk.bases.sensor import PokeReturnValue

ENDS = {"completed", "failed", "timed_out", "canceled", "rejected"}


def call(method, path, body=None, **headers):
    """The answer of the REST API."""
    connection = BaseHook.get_connection("crofter")
    headers |= {"Authorization": f"Bearer {connection.password}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{connection.host}/v1{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@task(retries=3)
def submit(job, ti=None):
    """Submits a job, once for each run of the task however often it is repeated; returns its id."""
    key = f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}"
    return call("POST", "/jobs", {"on_quota": "queue", **job}, **{"Idempotency-Key": key})["id"]


@task.sensor(poke_interval=15, timeout=6 * 3600, mode="reschedule")
def ended(job_id):
    """Waits for the end of a job without holding a slot; returns the job."""
    job = call("GET", f"/jobs/{job_id}")
    if job["status"] in ENDS - {"completed"}:
        raise AirflowException(f"{job['status']}: {job['reason']}: {job['message']}")
    return PokeReturnValue(is_done=job["status"] == "completed", xcom_value=job)


@dag(schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False)
def nightly_report():
    small = {"cpu": "500m", "memory": "512Mi"}
    image = "docker.io/library/busybox:1.37"
    extracted = ended(submit({"image": image, "command": ["echo", "extract"], "resources": small, "queue": "batch"}))
    reported = submit({"image": image, "command": ["echo", "report"], "resources": small})
    extracted >> reported
    ended.override(task_id="reported")(reported)


nightly_report()

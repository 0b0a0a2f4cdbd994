"""What the fuzzer holds the server to beyond the schemas of its document.

The document keeps to the part of JSON Schema that generators of clients read. What it says besides, in `x-codes` and in its
descriptions, is put back into the schemas here, so that the fuzzer is as strict as the server.
"""

import time

import schemathesis
from requests.adapters import HTTPAdapter

# The codes with which a server refuses a request because the API server does not answer it in time.
AWAY = ("keys_unavailable", "cluster_unavailable")
# For how many seconds a request is sent again: as in tests/common, WAIT_TIMEOUT.
LONGEST = 60

send_once = HTTPAdapter.send


def is_away(response):
    """Whether the request is to be sent again."""
    return response.status_code == 503 and any(f'"{code}"' in response.text for code in AWAY)


def send(adapter, request, **options):
    """Sends a request again while the server is away, as on a busy machine: a 5xx is a finding."""
    end = time.monotonic() + LONGEST
    while is_away(response := send_once(adapter, request, **options)) and time.monotonic() < end:
        time.sleep(int(response.headers["Retry-After"]))
    return response


HTTPAdapter.send = send


def either(*names):
    """Exactly one of these fields is there, and is not null."""
    one = lambda name: {"required": [name], "properties": {name: {"type": ["string", "integer"]}}}
    return [one(name) for name in names]


def schemas(value):
    """All objects in the document."""
    if isinstance(value, dict):
        yield value
        for one in list(value.values()):
            yield from schemas(one)
    elif isinstance(value, list):
        for one in value:
            yield from schemas(one)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if "x-codes" in response:
                    only = {"status": {"const": int(status)}, "code": {"enum": response["x-codes"]}}
                    problem = response["content"]["application/problem+json"]
                    problem["schema"] = {"allOf": [problem["schema"], {"properties": only}]}
    for schema in schemas(raw_schema["components"]["schemas"]):
        if schema.get("format") == "quantity":
            # A whole number is read as well.
            schema["type"] = ["string", "integer", "null"]
            schema["minimum"] = 1
    named = raw_schema["components"]["schemas"]
    named["JobCreate"]["anyOf"] = either("image", "scenario")
    named["VariablesFrom"]["oneOf"] = either("secret", "config_map")
    named["Mount"]["oneOf"] = either("claim", "scratch")
    named["Variable"]["properties"]["name"]["not"] = {"pattern": "^CROFTER_"}
    ways = {"value": "string", "secret_key_ref": "object", "config_map_key_ref": "object"}
    named["Variable"]["allOf"] = [
        {"not": {"required": [a, b], "properties": {a: {"type": ways[a]}, b: {"type": ways[b]}}}}
        for a in ways
        for b in ways
        if a < b
    ]

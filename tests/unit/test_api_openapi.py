"""The published OpenAPI document: it names every route with every status, and its schemas are schemas."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter
from starlette.routing import Route

from reheatd.api.openapi import document
from reheatd.jobs.contracts import Job, JobStatus, ReheatRequest, RLRequest
from tests.unit.api_support import ApiWorld, Client, talk
from tests.unit.test_gateway import World as GatewayWorld
from tests.unit.test_gateway import in_world

NOT_JSON = ("/openapi.json", "/metrics", "/reheatd/v1/adapters/{version}/files", "/reheatd/v1/events")
"""Paths whose answers no schema describes."""


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return document()


def operations(published: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in published["paths"].items()
        for method, operation in item.items()
    }


def served(routes: list[Route]) -> set[tuple[str, str]]:
    return {(method, route.path) for route in routes for method in (route.methods or ()) if method != "HEAD"}


def test_every_route_is_published_and_no_other(tmp_path: Path, published: dict[str, Any]) -> None:
    found: set[tuple[str, str]] = set()

    async def admin(client: Client, world: ApiWorld) -> None:
        routes = [route for route in world.app().routes if isinstance(route, Route)]
        found.update(served(routes))
        for route in routes:
            for method in (route.methods or set()) - {"HEAD"}:
                assert operations(published)[method, route.path]["operationId"] == route.name

    async def openai(world: GatewayWorld) -> None:
        found.update(served(world.gateway.routes()))

    talk(ApiWorld(tmp_path / "admin"), admin)
    (tmp_path / "openai").mkdir()
    in_world(tmp_path / "openai", openai)
    assert found == set(operations(published))


def test_the_daemon_publishes_it(tmp_path: Path, published: dict[str, Any]) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        answer = await client.get("/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == published

    talk(ApiWorld(tmp_path), story)


def test_every_schema_is_one_and_every_reference_leads_somewhere(published: dict[str, Any]) -> None:
    schemas: list[Any] = [*published["components"]["schemas"].values()]
    for operation in operations(published).values():
        schemas += [parameter["schema"] for parameter in operation.get("parameters", ())]
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        schemas += [media["schema"] for content in contents for media in content.get("content", {}).values()]
        for response in operation["responses"].values():
            assert response["description"]
            for link in response.get("links", {}).values():
                assert link["operationId"] in {each["operationId"] for each in operations(published).values()}
    for schema in schemas:
        Draft202012Validator.check_schema(schema)
    names = {name.rpartition("/")[2] for name in _references(published)}
    assert names <= published["components"]["schemas"].keys()


def test_path_parameters_are_declared(published: dict[str, Any]) -> None:
    for (_, path), operation in operations(published).items():
        declared = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert declared == {part.strip("{}") for part in path.split("/") if part.startswith("{")}


def test_requests_of_the_command_line_fit_the_document(published: dict[str, Any]) -> None:
    schema = operations(published)["POST", "/reheatd/v1/jobs"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**published, **schema})
    for request in (ReheatRequest(tau=1.5), ReheatRequest(force=True, steps=3), RLRequest(steps=2)):
        validator.validate(json.loads(request.model_dump_json(exclude_unset=True)) | {"kind": request.kind})
    for wrong in ({}, {"kind": "rl", "tau": 2}, {"kind": "reheat", "steps": 0}, {"kind": "import"}):
        assert not validator.is_valid(wrong)


def test_jobs_are_published_with_the_fields_of_their_requests(published: dict[str, Any]) -> None:
    validator = Draft202012Validator({**published, "$ref": "#/components/schemas/Job"})
    job = json.loads(
        Job.model_construct(
            job_id="a",
            kind="rl",
            status=JobStatus.QUEUED,
            trigger="manual",
            created_at=1.0,
            parent_version=0,
            request=RLRequest(steps=2),
        ).model_dump_json()
    )
    validator.validate(job)
    for request in ({"kind": "rl", "tau": 2}, {"kind": "reheat", "steps": 0}, {}):
        assert not validator.is_valid(job | {"request": request})


def test_errors_that_the_daemon_answers_are_published(tmp_path: Path, published: dict[str, Any]) -> None:
    cases = [
        ("GET", "/reheatd/v1/adapters/{version}", "/reheatd/v1/adapters/none", None),
        ("GET", "/reheatd/v1/adapters/{version}", "/reheatd/v1/adapters/9", None),
        ("GET", "/reheatd/v1/adapters/{version}/files", "/reheatd/v1/adapters/0/files", None),
        ("POST", "/reheatd/v1/jobs", "/reheatd/v1/jobs", {"kind": "rl", "steps": -1}),
        ("POST", "/reheatd/v1/jobs", "/reheatd/v1/jobs", {"kind": "reheat", "remedy": "shrink", "towards": 7}),
        ("POST", "/reheatd/v1/adapters/rollback", "/reheatd/v1/adapters/rollback", None),
        ("GET", "/reheatd/v1/jobs/{job_id}", "/reheatd/v1/jobs/none", None),
    ]

    async def story(client: Client, world: ApiWorld) -> None:
        for method, path, url, body in cases:
            answer = await client.request(method, url, json=body)
            response = operations(published)[method, path]["responses"][str(answer.status_code)]
            schema = response["content"]["application/json"]["schema"]
            Draft202012Validator({**published, **schema}).validate(answer.json())

    talk(ApiWorld(tmp_path), story)


def test_answers_fit_the_document(tmp_path: Path, published: dict[str, Any]) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        job = await client.post("/reheatd/v1/jobs", json={"kind": "reheat", "tau": 1.5})
        TypeAdapter(Job).validate_python(job.json())
        for (method, path), operation in operations(published).items():
            if method != "GET" or path.startswith("/v1/") or path in NOT_JSON:
                continue
            answer = await client.get(path.replace("{version}", "0").replace("{job_id}", job.json()["job_id"]))
            assert answer.status_code == 200, answer.text
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            Draft202012Validator({**published, **schema}).validate(answer.json())

    talk(ApiWorld(tmp_path), story)


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(each) for each in value.values()))
    return set().union(*(_references(each) for each in value)) if isinstance(value, list) else set()

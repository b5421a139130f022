"""A stand-in of the Hugging Face Hub: the part of its HTTP interface that huggingface_hub uses.

It keeps repositories of models with branches, commits, private ones, and large files by LFS, and
answers errors with the headers by which huggingface_hub knows them.
"""

import base64
import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask, Response, jsonify, request
from huggingface_hub import constants
from werkzeug.serving import make_server

OWNER, READER = "hf_owner", "hf_reader"  # tokens: one may write, the other sees what is public


@dataclass
class Repository:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> files
    large: set[str] = field(default_factory=set)  # paths of files that came by LFS

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        listed = sorted(
            (path, hashlib.sha1(content).hexdigest()) for path, content in files.items()
        )
        stamp = json.dumps([self.branches.get(branch), message, listed, len(self.commits)])
        name = hashlib.sha1(stamp.encode()).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name


@dataclass
class Hub:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256
    requests: list[str] = field(default_factory=list)

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.branches[branch]]

    def change(self, name: str, path: str, content: bytes | None) -> None:
        """Commit another content of a file, or its deletion, as somebody else would."""
        files = {**self.files(name), path: content}
        kept = {path: content for path, content in files.items() if content is not None}
        self.repositories[name].commit("main", kept, "change")


def problem(status: int, code: str, message: str = "") -> Response:
    headers = {"X-Error-Code": code, "X-Error-Message": message or code}
    return Response(json.dumps({"error": message or code}), status, headers)


def token() -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def make_app(hub: Hub) -> Flask:
    app = Flask("hub")

    @app.before_request
    def note() -> None:
        hub.requests.append(f"{request.method} {request.path}")

    def find(name: str, revision: str = "main") -> tuple[Repository, str] | Response:
        """The repository and the commit, or the answer that says what is wrong."""
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and token() != OWNER):
            return problem(404 if token() else 401, "RepoNotFound")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return problem(404, "RevisionNotFound")
        return repository, commit

    def may_write() -> Response | None:
        if not token():
            return problem(401, "", "Invalid username or password.")
        return None if token() == OWNER else problem(403, "", "You may not write here.")

    @app.post("/api/repos/create")
    def create() -> Any:
        if refused := may_write():
            return refused
        wanted = request.get_json()
        name = f"{wanted['organization']}/{wanted['name']}"
        answer = {"url": f"{hub.url}/{name}", "name": name}
        if name in hub.repositories:
            return jsonify(error="exists", **answer), 409
        repository = Repository(wanted.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial")
        hub.repositories[name] = repository
        return jsonify(answer)

    @app.post("/api/validate-yaml")
    def validate() -> Any:
        _, front, _ = request.get_json()["content"].split("---\n", 2)
        try:
            data = yaml.safe_load(front)
        except yaml.YAMLError as error:
            return jsonify(errors=[{"message": str(error)}], warnings=[]), 400
        errors = [{"message": f"no {key}"} for key in ("license",) if key not in data]
        return jsonify(errors=errors, warnings=[]), 400 if errors else 200

    @app.post("/api/models/<owner>/<repository>/branch/<branch>")
    def make_branch(owner: str, repository: str, branch: str) -> Any:
        found = find(f"{owner}/{repository}")
        if isinstance(found, Response):
            return found
        if branch in found[0].branches:
            return problem(409, "", "exists")
        found[0].branches[branch] = found[1]
        return jsonify({})

    @app.post("/api/models/<owner>/<repository>/preupload/<path:revision>")
    def preupload(owner: str, repository: str, revision: str) -> Any:
        found = find(f"{owner}/{repository}", revision)
        if isinstance(found, Response):
            return found
        answers = []
        for file in request.get_json()["files"]:
            is_large = b"\0" in base64.b64decode(file["sample"]) or file["size"] > 1 << 20
            mode = "lfs" if is_large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        return jsonify(files=answers)

    @app.post("/<owner>/<repository>.git/info/lfs/objects/batch")
    def batch(owner: str, repository: str) -> Any:
        if refused := may_write():
            return refused
        objects = []
        for each in request.get_json()["objects"]:
            if each["oid"] not in hub.objects:
                place = f"{hub.url}/lfs/{each['oid']}"
                each["actions"] = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            objects.append(each)
        return jsonify(transfer="basic", objects=objects)

    @app.put("/lfs/<oid>")
    def upload(oid: str) -> Any:
        content = request.get_data()
        if hashlib.sha256(content).hexdigest() != oid:
            return problem(400, "", "the content has another hash")
        hub.objects[oid] = content
        return ""

    @app.post("/lfs/<oid>/verify")
    def verify(oid: str) -> Any:
        return jsonify({}) if oid in hub.objects else problem(404, "", "was not uploaded")

    @app.post("/api/models/<owner>/<repository>/commit/<path:revision>")
    def commit(owner: str, repository: str, revision: str) -> Any:
        name = f"{owner}/{repository}"
        found = find(name, revision)
        if isinstance(found, Response):
            return found
        if refused := may_write():
            return refused
        files, message = dict(found[0].commits[found[1]]), ""
        for line in request.get_data().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
                found[0].large.add(value["path"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return problem(400, "", f"{entry['key']} is not known")
        made = found[0].commit(revision, files, message)
        return jsonify(commitUrl=f"{hub.url}/{name}/commit/{made}", commitOid=made)

    @app.get("/api/models/<owner>/<repository>")
    @app.get("/api/models/<owner>/<repository>/revision/<path:revision>")
    def info(owner: str, repository: str, revision: str = "main") -> Any:
        found = find(f"{owner}/{repository}", revision)
        if isinstance(found, Response):
            return found
        siblings = [{"rfilename": path} for path in found[0].commits[found[1]]]
        about = {"id": f"{owner}/{repository}", "sha": found[1], "private": found[0].private}
        return jsonify(**about, siblings=siblings, tags=[])

    @app.get("/api/models/<owner>/<repository>/tree/<revision>")
    def tree(owner: str, repository: str, revision: str) -> Any:
        found = find(f"{owner}/{repository}", revision)
        if isinstance(found, Response):
            return found
        entries = []
        for path, content in sorted(found[0].commits[found[1]].items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            entry["oid"] = hashlib.sha1(content).hexdigest()
            if path in found[0].large:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return jsonify(entries)

    @app.get("/<owner>/<repository>/resolve/<revision>/<path:path>")  # and HEAD
    def resolve(owner: str, repository: str, revision: str, path: str) -> Any:
        found = find(f"{owner}/{repository}", revision)
        if isinstance(found, Response):
            return found
        content = found[0].commits[found[1]].get(path)
        if content is None:
            return problem(404, "EntryNotFound")
        digest = hashlib.sha256 if path in found[0].large else hashlib.sha1
        headers = {"X-Repo-Commit": found[1], "ETag": f'"{digest(content).hexdigest()}"'}
        return Response(content, headers=headers, mimetype="application/octet-stream")

    return app


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve an empty hub in a thread of this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    hub = Hub()
    server = make_server("127.0.0.1", 0, make_app(hub), threaded=True)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    thread.join()


@contextmanager
def hub_for_jobs(cache: Path) -> Iterator[Hub]:
    """An empty hub that this process uses, with this cache and the token of who may write."""
    with hub_server() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        place = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", OWNER)
        yield hub

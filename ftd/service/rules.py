"""Who may do what: one table for every route and every call. What is not in it cannot be done.

A row is what one use case wants of a key, and its name over REST and over gRPC.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ftd.core.errors import FtdError, Kind
from ftd.core.keys import Scope
from ftd.service.actor import Actor

READ, SUBMIT, INFER, ADMIN = Scope.READ, Scope.SUBMIT, Scope.INFER, Scope.ADMIN


@dataclass(frozen=True, slots=True)
class Rule:
    """`scope` None: open to everybody, without a key."""

    scope: Scope | None
    route: str | None
    call: str | None = None


_JOB = "/v1/fine_tuning/jobs/{fine_tuning_job_id}"

RULES = (
    Rule(SUBMIT, "POST /v1/files", "Files/UploadFile"),
    Rule(READ, "GET /v1/files", "Files/ListFiles"),
    Rule(READ, "GET /v1/files/{file_id}", "Files/GetFile"),
    Rule(READ, "GET /v1/files/{file_id}/content", "Files/GetFileContent"),
    Rule(SUBMIT, "DELETE /v1/files/{file_id}", "Files/DeleteFile"),
    Rule(SUBMIT, "POST /v1/fine_tuning/jobs", "Jobs/CreateJob"),
    Rule(READ, "GET /v1/fine_tuning/jobs", "Jobs/ListJobs"),
    Rule(READ, f"GET {_JOB}", "Jobs/GetJob"),
    Rule(SUBMIT, f"POST {_JOB}/cancel", "Jobs/CancelJob"),
    Rule(SUBMIT, f"POST {_JOB}/pause", "Jobs/PauseJob"),
    Rule(SUBMIT, f"POST {_JOB}/resume", "Jobs/ResumeJob"),
    Rule(READ, f"GET {_JOB}/events", "Jobs/ListEvents"),
    Rule(READ, f"GET {_JOB}/checkpoints", "Jobs/ListCheckpoints"),
    Rule(READ, None, "Jobs/WatchEvents"),
    Rule(READ, None, "Jobs/GetLogs"),
    Rule(READ, "GET /v1/models", "Models/ListModels"),
    Rule(READ, "GET /v1/models/{model:path}", "Models/GetModel"),
    Rule(READ, None, "Models/ExportModel"),
    Rule(ADMIN, None, "Models/AddModel"),
    Rule(SUBMIT, "DELETE /v1/models/{model:path}", "Models/DeleteModel"),  # of a base: ADMIN too
    Rule(INFER, "POST /v1/chat/completions", "Chat/Complete"),
    Rule(INFER, "POST /v1/completions"),
    Rule(READ, None, "Node/ListDevices"),
    Rule(ADMIN, None, "Keys/CreateKey"),
    Rule(ADMIN, None, "Keys/ListKeys"),
    Rule(ADMIN, None, "Keys/RevokeKey"),
    Rule(READ, "GET /metrics"),
    Rule(READ, "GET /openapi.json"),
    Rule(None, "GET /healthz"),
    Rule(None, "GET /readyz"),
)

ROUTES: Mapping[str, Scope | None] = {
    rule.route: rule.scope for rule in RULES if rule.route is not None
}
CALLS: Mapping[str, Scope | None] = {
    f"ftd.v1.{rule.call}": rule.scope for rule in RULES if rule.call is not None
}


def permit(actor: Actor, needed: Scope) -> None:
    """Raises FORBIDDEN, in OpenAI's words, for a key without the scope."""
    if needed not in actor.scopes:
        raise FtdError(
            Kind.FORBIDDEN,
            "You have insufficient permissions for this operation. "
            f"Missing scopes: {needed}. Ask for a key that has it: "
            "`ftctl keys create NAME --scopes ...`.",
            code="missing_scope",
        )

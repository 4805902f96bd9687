"""The frozen surface: adding a route, an RPC, a command or a metric means editing this file."""

import typer
from prometheus_client import Metric

import ftctl.cli
import ftd.__main__
from ftd.metrics import Metrics
from ftd.v1 import chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2

RPCS = {
    "Files": {"UploadFile", "ListFiles", "GetFile", "DeleteFile", "GetFileContent"},
    "Jobs": {
        "CreateJob", "ListJobs", "GetJob", "CancelJob", "ListEvents", "ListCheckpoints",
        "WatchEvents", "GetLogs", "PauseJob", "ResumeJob",
    },
    "Chat": {"Complete"},
    "Keys": {"CreateKey", "ListKeys", "RevokeKey"},
    "Models": {"AddModel", "ListModels", "GetModel", "DeleteModel", "ExportModel"},
    "Node": {"ListDevices"},
}  # fmt: skip

FTD = {"serve", "check", "backup", "restore", "demo"}
FTCTL = {
    "submit", "list", "show", "events", "watch", "wait", "logs", "cancel", "checkpoints", "results",
    "files", "models", "devices", "chat", "compare", "pause", "resume",
    "keys",
}  # fmt: skip

METRICS = {
    "ftd_build_info", "ftd_start_time_seconds", "ftd_jobs", "ftd_jobs_created", "ftd_jobs_finished",
    "ftd_job_queue_wait_seconds", "ftd_job_run_duration_seconds", "ftd_queue_oldest_seconds",
    "ftd_scheduler_cycle_duration_seconds", "ftd_trainer_tokens", "ftd_trainer_steps",
    "ftd_trainer_step_duration_seconds", "ftd_trainer_exits", "ftd_trainer_warm",
    "ftd_job_progress_ratio", "ftd_job_eta_seconds", "ftd_job_loss",
    "ftd_job_learning_rate", "ftd_job_grad_norm",
    "ftd_job_tokens_per_second", "ftd_device_info", "ftd_device_allocated",
    "ftd_device_withheld",
    "ftd_device_utilization_ratio", "ftd_device_memory_used_bytes",
    "ftd_device_memory_total_bytes", "ftd_device_temperature_celsius", "ftd_device_power_watts",
    "ftd_events", "ftd_db_size_bytes", "ftd_db_transaction_duration_seconds",
    "ftd_storage_free_bytes", "ftd_storage_full", "ftd_event_loop_lag_seconds",
    "ftd_http_request_duration_seconds",
    "grpc_server_handled", "grpc_server_handling_seconds",
    "ftd_upload_bytes", "ftd_uploads_in_progress", "ftd_inference_requests",
    "ftd_inference_time_to_first_token_seconds", "ftd_inference_inter_token_latency_seconds",
    "ftd_inference_tokens", "ftd_inference_adapters", "ftd_inference_workers",
}  # fmt: skip


def test_rpcs() -> None:
    services = {
        service.name: {method.name for method in service.methods}
        for module in (chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    assert services == RPCS


def test_metrics() -> None:
    families: list[Metric] = list(Metrics("0").families())
    assert {family.name for family in families} == METRICS


def test_commands() -> None:
    assert set(typer.main.get_command(ftd.__main__.app).commands) == FTD  # type: ignore[attr-defined]
    assert set(typer.main.get_command(ftctl.cli.app).commands) == FTCTL  # type: ignore[attr-defined]

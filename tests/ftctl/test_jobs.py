"""ftctl submit, list, show, cancel, pause, resume and checkpoints, as processes."""

import asyncio
import json

import pytest
import yaml

from ftd.core.dataset import too_few
from ftd.core.hyperparams import Hyperparameters, Requested
from ftd.core.job import Checkpoint, JobError, State
from tests.ftctl.conftest import Daemon

FORMATS = ("table", "json", "yaml")
GOOD = "{}\n" * 12
BAD = '{}\nnot one\n{"a": 1}\nnor this\n'


def write(daemon: Daemon, name: str, text: str) -> str:
    (daemon.root / name).write_text(text)
    return str(daemon.root / name)


async def submitted(daemon: Daemon, *options: str) -> str:
    data = write(daemon, "train.jsonl", GOOD)
    ran = await daemon.run("submit", data, "--model", "smollm2", *options)
    assert ran.status == 0, ran.err
    return ran.out.strip()


async def test_submit_uploads_creates_and_prints_the_id_alone(daemon: Daemon) -> None:
    data = write(daemon, "train.jsonl", GOOD)
    valid = write(daemon, "valid.jsonl", "{}\n")
    options = "--suffix marv --epochs 3 --batch-size 2 --lr-multiplier 0.5 --seed 9 --priority 4"
    ran = await daemon.run(
        "submit", data, "--model", "smollm2", "--validation", valid, *options.split()
    )
    assert (ran.status, ran.out) == (0, "ftjob-1\n")
    assert "ftctl watch ftjob-1" in ran.err
    (asked,) = daemon.door.jobs.created
    assert asked.requested == Requested(n_epochs=3, batch_size=2, learning_rate_multiplier=0.5)
    assert (asked.suffix, asked.seed, asked.priority, asked.method) == ("marv", 9, 4, "supervised")
    assert asked.validation_file is not None
    assert daemon.door.files.contents[asked.training_file] == GOOD.encode()
    assert daemon.door.files.contents[asked.validation_file] == b"{}\n"
    assert daemon.door.files.rows[asked.training_file].filename == "train.jsonl"


async def test_submit_leaves_to_auto_what_is_not_given(daemon: Daemon) -> None:
    daemon.door.files.add("file-x", b"{}")
    ran = await daemon.run("submit", "file-x", "--model", "smollm2")
    assert ran.status == 0
    (asked,) = daemon.door.jobs.created
    assert asked.training_file == "file-x"
    assert asked.requested == Requested()
    assert (asked.suffix, asked.seed) == (None, None)
    assert daemon.door.files.uploads == 0


async def test_submit_of_faulty_data_shows_the_lines_and_leaves_nothing(daemon: Daemon) -> None:
    data = write(daemon, "train.jsonl", GOOD)
    bad = write(daemon, "valid.jsonl", BAD)
    ran = await daemon.run("submit", data, "--model", "smollm2", "--validation", bad)
    assert (ran.status, ran.out) == (1, "")
    assert "valid.jsonl has 2 faults" in ran.err
    assert "line 2: Example 2 cannot be parsed. Write JSON." in ran.err
    assert "line 4: " in ran.err
    assert daemon.door.files.rows == {}
    assert daemon.door.jobs.created == []


async def test_submit_of_too_few_examples_is_refused_in_the_jobs_words(daemon: Daemon) -> None:
    few = write(daemon, "few.jsonl", "{}\n" * 9)
    ran = await daemon.run("submit", few, "--model", "smollm2")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"ftctl: {too_few(9, 'training_file').message}\n")
    assert daemon.door.files.rows == {}
    assert daemon.door.jobs.created == []


async def test_submit_of_no_job_leaves_nothing(daemon: Daemon) -> None:
    data = write(daemon, "train.jsonl", GOOD)
    ran = await daemon.run("submit", data, "--model", "smollm2", "--epochs", "0")
    assert ran.status == 1
    assert "n_epochs must be between 1 and 50." in ran.err
    assert daemon.door.files.uploads == 1
    assert daemon.door.files.rows == {}


async def test_submit_with_a_misspelt_model_uploads_nothing(daemon: Daemon) -> None:
    data = write(daemon, "train.jsonl", GOOD)
    ran = await daemon.run("submit", data, "--model", "smolm")
    assert ran.status == 3
    assert "`smolm` does not exist" in ran.err
    assert "`ftctl models list`" in ran.err
    assert daemon.door.files.uploads == 0


async def test_submit_of_nothing_is_a_usage_error(daemon: Daemon) -> None:
    ran = await daemon.run("submit", "absent.jsonl", "--model", "smollm2")
    assert ran.status == 2
    assert "there is no file absent.jsonl" in ran.err
    ran = await daemon.run("submit", "absent.jsonl")
    assert ran.status == 2
    assert "--model" in ran.err
    ran = await daemon.run("submit", str(daemon.root), "--model", "smollm2")
    assert ran.status == 2
    assert "is no regular file" in ran.err


async def test_submit_of_a_value_out_of_range_is_the_daemons_error(daemon: Daemon) -> None:
    daemon.door.files.add("file-x", b"{}")
    ran = await daemon.run("submit", "file-x", "--model", "smollm2", "--epochs", "0")
    assert ran.status == 1
    assert "n_epochs must be between 1 and 50." in ran.err


async def test_list_in_every_format(daemon: Daemon) -> None:
    for _ in range(3):
        await submitted(daemon)
    table = await daemon.run("list", "--limit", "2")
    header, *rows = table.out.splitlines()
    assert header.split() == ["JOB", "STATUS", "STEP", "AGE", "MODEL", "REMARK"]
    assert [row.split()[0] for row in rows] == ["ftjob-3", "ftjob-2"]
    assert "no device is free" in rows[0]
    assert "--after ftjob-2" in table.err
    names = await daemon.run("list", "-o", "name", "--after", "ftjob-2")
    assert (names.out, names.err) == ("ftjob-1\n", "")
    as_json = json.loads((await daemon.run("list", "-o", "json")).out)
    assert (as_json["object"], as_json["has_more"]) == ("list", False)
    assert [job["id"] for job in as_json["data"]] == ["ftjob-3", "ftjob-2", "ftjob-1"]
    as_yaml = yaml.safe_load((await daemon.run("list", "-o", "yaml")).out)
    assert as_yaml == as_json


async def test_an_empty_list_is_empty_on_stdout(daemon: Daemon) -> None:
    ran = await daemon.run("list")
    assert (ran.status, ran.out, ran.err) == (0, "", "There are none.\n")
    assert json.loads((await daemon.run("list", "-o", "json")).out)["data"] == []


async def test_a_job_as_json_is_the_apis(daemon: Daemon) -> None:
    job_id = await submitted(daemon, "--suffix", "marv", "--epochs", "2")
    ran = await daemon.run("show", job_id, "-o", "json")
    hyperparameters = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    created_at = daemon.door.jobs.rows[job_id].created_at
    assert json.loads(ran.out) == {
        "id": job_id,
        "object": "fine_tuning.job",
        "created_at": created_at,
        "finished_at": None,
        "estimated_finish": None,
        "model": "smollm2",
        "fine_tuned_model": None,
        "organization_id": "org-local",
        "status": "queued",
        "training_file": "file-1",
        "validation_file": None,
        "result_files": [],
        "trained_tokens": None,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "error": None,
        "seed": 7,
        "integrations": [],
        "metadata": None,
        "user_provided_suffix": "marv",
        "priority": 0,
        "wait_reason": "no device is free",
        "phase": None,
        "fine_tuned_model_sha256": None,
    }


async def test_show_says_why_each_value_was_chosen(daemon: Daemon) -> None:
    job_id = await submitted(daemon)
    reasons = ("n_epochs 3 (auto: the usual)", "batch_size 1 (auto)", "multiplier 1 (auto)")
    daemon.door.jobs.change(
        job_id,
        state=State.RUNNING,
        phase="training",
        wait_reason=None,
        step=30,
        total_steps=120,
        metadata={"team": "a"},
        hyperparameters=Hyperparameters(
            n_epochs=3, batch_size=1, learning_rate_multiplier=1.0, reasons=reasons
        ),
    )
    ran = await daemon.run("show", job_id)
    lines = {line.split("  ")[0]: line for line in ran.out.splitlines()}
    assert lines["Status"].endswith("running (training)")
    assert lines["Values"].endswith("n_epochs 3 (auto: the usual)")
    assert lines["Progress"].endswith("step 30 of 120")
    assert lines["Metadata"].endswith("team=a")
    assert "Waits" not in lines
    assert "multiplier 1 (auto)" in ran.out


async def test_show_of_a_failed_job_has_its_error_and_first_faults(daemon: Daemon) -> None:
    job_id = await submitted(daemon)
    error = JobError(code="invalid_training_file", message="It is bad.", param="training_file")
    daemon.door.jobs.finish(job_id, State.FAILED, error=error)
    faults = [{"line": n, "path": "messages[0]", "message": f"fault {n}."} for n in range(1, 8)]
    daemon.door.jobs.tell(job_id, "It is bad.", level="error", data={"errors": faults})
    ran = await daemon.run("show", job_id)
    assert "It is bad." in ran.out
    assert "line 5, messages[0]: fault 5." in ran.out
    assert "and 2 more" in ran.out
    assert "fault 6" not in ran.out


async def test_cancel_and_cancel_again(daemon: Daemon) -> None:
    job_id = await submitted(daemon)
    ran = await daemon.run("cancel", job_id)
    assert (ran.status, ran.out, ran.err) == (0, f"{job_id}\n", "cancelled\n")
    assert daemon.door.jobs.rows[job_id].state is State.CANCELLED
    ran = await daemon.run("cancel", job_id)
    assert ran.status == 1
    assert "Job has already completed" in ran.err


async def test_pause_and_resume(daemon: Daemon) -> None:
    job_id = await submitted(daemon)
    ran = await daemon.run("pause", job_id)
    assert (ran.status, ran.out, ran.err) == (0, f"{job_id}\n", "paused\n")
    ran = await daemon.run("resume", job_id)
    assert (ran.status, ran.out, ran.err) == (0, f"{job_id}\n", "resumed\n")
    assert daemon.door.jobs.rows[job_id].state is State.QUEUED
    daemon.door.jobs.change(job_id, state=State.RUNNING, phase="training")
    ran = await daemon.run("pause", job_id)
    assert (ran.status, ran.out) == (0, f"{job_id}\n")
    assert ran.err == "it pauses as soon as its checkpoint is saved\n"
    assert "running (pausing)" in (await daemon.run("show", job_id)).out
    daemon.door.jobs.change(job_id, state=State.VALIDATING)
    ran = await daemon.run("pause", job_id, "-o", "json")
    assert json.loads(ran.out)["status"] == "validating_files"
    assert ran.err == "it pauses as soon as its files are checked\n"
    daemon.door.jobs.finish(job_id, State.SUCCEEDED)
    for command in ("pause", "resume"):
        ran = await daemon.run(command, job_id)
        assert ran.status == 1
        assert "Job has already completed" in ran.err


async def test_checkpoints(daemon: Daemon) -> None:
    job_id = await submitted(daemon)
    for seq in (1, 2):
        daemon.door.jobs.saved[job_id].append(
            Checkpoint(
                seq=seq,
                id=f"ftckpt_{seq}",
                job=job_id,
                created_at=1_700_000_000,
                step=40 * seq,
                model=f"ft:smollm2::x:ckpt-step-{40 * seq}",
                metrics={"step": 40.0 * seq, "train_loss": 0.5},
            )
        )
    table = await daemon.run("checkpoints", job_id)
    assert table.out.splitlines()[1].split()[:3] == ["ftckpt_2", "80", "0.5000"]
    found = json.loads((await daemon.run("checkpoints", job_id, "-o", "json")).out)
    assert (found["first_id"], found["last_id"]) == ("ftckpt_2", "ftckpt_1")
    assert found["data"][1] == {
        "id": "ftckpt_1",
        "object": "fine_tuning.job.checkpoint",
        "created_at": 1_700_000_000,
        "fine_tuning_job_id": job_id,
        "fine_tuned_model_checkpoint": "ft:smollm2::x:ckpt-step-40",
        "step_number": 40,
        "metrics": {"step": 40, "train_loss": 0.5},
    }


@pytest.mark.parametrize(
    "command",
    [
        "show",
        "cancel",
        "pause",
        "resume",
        "checkpoints",
        "events",
        "watch",
        "wait",
        "logs",
        "results",
    ],
)
async def test_a_job_that_is_not_there(daemon: Daemon, command: str) -> None:
    ran = await daemon.run(command, "ftjob-x")
    assert (ran.status, ran.out) == (3, "")
    assert ran.err.startswith("ftctl: Could not find fine tune: ftjob-x\n")
    assert "`ftctl list`" in ran.err


async def test_text_of_others_cannot_steer_the_terminal(daemon: Daemon) -> None:
    job_id = await submitted(daemon)
    daemon.door.jobs.change(
        job_id, suffix="\x1b[2J", metadata={"\x1b]0;t": "a\nb"}, wait_reason="\u202ereason"
    )
    daemon.door.jobs.tell(job_id, "\x1b[31mred\x07")
    commands = (("show", job_id), ("list",), ("events", job_id))
    runs = [daemon.run(*command, "-o", form) for command in commands for form in FORMATS]
    for ran in await asyncio.gather(*runs):
        assert ran.status == 0
        assert all(c.isprintable() or c == "\n" for c in ran.out + ran.err)

"""The sbatch files under a real Slurm: a job in two nodes is preempted in mid-epoch, requeued and resumed."""

import csv
import json
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from processes import free_port
from slurm.cluster import AVAILABLE, slurm_cluster

import lightning_rectify

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs slurm-wlm and munge")

ROOT = Path(lightning_rectify.__file__).parent
SBATCH = ROOT / "configs" / "slurm" / "train.sbatch"
EPOCHS, STEPS = 5, 39  # steps of an epoch over the digits: 2 nodes, 16 samples each
CONFIG = f"""
data: {{source: digits, batch_size: 16, classes: 10, channels: 1, size: 8}}
model:
  backbone: {{class_path: ResNet, init_args: {{classes: 10, channels: 1, depth: 8, width: 8}}}}
  objective: {{class_path: Mixup}}
checkpoint: {{monitor: null, save_top_k: 1}}
trainer: {{accelerator: cpu, max_epochs: {EPOCHS}, enable_progress_bar: false}}
final_test: false
"""
NODES = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
START_S = 180  # importing torch four times on a busy machine


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster() as running:
        yield running


def submit(cluster, folder, *options):
    """Submit a small training from `folder`; the nodes' names mean nothing to the resolver here."""
    config = folder / "small.yaml"
    config.write_text(CONFIG)
    env = {
        "RECTIFY": f"{sys.executable} {ROOT / 'train.py'}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = (str(SBATCH), "-c", "trainer/ddp", "-c", str(config))
    return cluster.submit(*NODES, *options, f"--chdir={folder}", *command, **env)


def rows(folder, key):
    """Epoch, step and value wherever a run logged this key, over all its starts."""
    logs = sorted(folder.glob("csv/version_*/metrics.csv"), key=lambda log: int(log.parent.name.partition("_")[2]))
    found = [row for log in logs for row in csv.DictReader(log.open())]
    return [(row["epoch"], row["step"], row[key]) for row in found if row.get(key)]


def training_keys(folder):
    heads = [next(csv.reader(log.open())) for log in folder.glob("csv/version_*/metrics.csv")]
    return sorted({key for head in heads for key in head if key.startswith("train/")})


def test_two_nodes_run(cluster):
    shown = cluster.run("srun", "--nodes=2", "bash", "-c", "echo $SLURMD_NODENAME")
    assert sorted(shown.split()) == ["n1", "n2"]


def warn_in_start_up(cluster, job):
    """Signal the job when its processes watch, long before they train."""
    deadline, bit = time.monotonic() + START_S, 1 << (signal.SIGUSR1 - 1)
    wanted = f"SLURM_JOB_ID={job}".encode()
    watching = []
    while len(watching) < 2:
        assert time.monotonic() < deadline, cluster.logs()
        watching = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, TypeError):
                ours = wanted in (process / "environ").read_bytes().split(b"\0")
                if ours and (process / "cmdline").read_bytes().startswith(sys.executable.encode()):  # not srun
                    caught = re.search(r"SigCgt:\s*(\w+)", (process / "status").read_text())[1]
                    watching += [process] if int(caught, 16) & bit else []
        time.sleep(0.02)
    cluster.run("scancel", "--signal=USR1", job)


def test_a_preempted_job_ends_with_the_weights_of_an_undisturbed_one(cluster, tmp_path):
    cut, whole = submit(cluster, tmp_path), submit(cluster, tmp_path)
    output = tmp_path / f"slurm-{cut}.out"
    warn_in_start_up(cluster, cut)
    folders = [tmp_path / "runs" / f"slurm-{job}" for job in (cut, whole)]
    deadline = time.monotonic() + START_S
    while not (folders[0] / "checkpoints" / "last.ckpt").exists():  # the end of the first epoch
        assert time.monotonic() < deadline and cluster.job(cut)["JobState"] in ("PENDING", "RUNNING", "COMPLETING"), (
            output.read_text() if output.exists() else cluster.logs()
        )
        time.sleep(0.05)
    cluster.run("scancel", "--signal=USR1", cut)
    for job, restarts in ((cut, "2"), (whole, "0")):
        ended = cluster.wait(job, {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}, START_S)
        text = (tmp_path / f"slurm-{job}.out").read_text()
        assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", restarts), text
    text = output.read_text()
    assert all(f"start {n}," in text for n in (1, 2, 3)), "the output of all lives is kept"
    assert text.count("saved step") == 1, "there was nothing to save during start-up"
    saved = int(text.split("Preemption: saved step ")[1].split()[0])
    assert STEPS < saved < EPOCHS * STEPS and saved % STEPS, "saved in mid-epoch"
    assert f"preempt-{saved}.ckpt" in text.split("Restored all states from the checkpoint at ")[1]
    ends = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in folders]
    assert ends[0]["global_step"] == ends[1]["global_step"] == EPOCHS * STEPS
    for name, value in ends[1]["state_dict"].items():
        assert torch.equal(ends[0]["state_dict"][name], value), name
    keys = training_keys(folders[1])
    assert keys == training_keys(folders[0]) and "train/loss" in keys
    for key in (*keys, "val/accuracy", "val/loss"):
        cut_rows, whole_rows = rows(folders[0], key), rows(folders[1], key)
        assert [row[:2] for row in cut_rows] == [row[:2] for row in whole_rows], key
        # a mean over an epoch that was cut is a sum in another order
        values = [torch.tensor([float(row[2]) for row in found]) for found in (cut_rows, whole_rows)]
        torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    assert len(rows(folders[1], "val/loss")) == EPOCHS
    assert json.loads((folders[0] / "run.json").read_text())["status"] == "finished"
    assert not list(folders[0].glob("preempt-*"))


@pytest.mark.parametrize(("script", "command"), [("train", "fit"), ("unlearn", "unlearn")])
def test_an_array_is_a_study_over_seeds(cluster, tmp_path, script, command):
    options = (*NODES, "--array=3-4", "--output=%a.out", f"--chdir={tmp_path}")
    job = cluster.submit(*options, str(SBATCH.with_stem(script)), "-c", "quickstart", RECTIFY="echo ran")
    for seed in (3, 4):
        cluster.wait(f"{job}_{seed}", {"COMPLETED", "FAILED"}, 60)
        first, *ranks = (tmp_path / f"{seed}.out").read_text().splitlines()
        assert first.endswith("start 1, 2 nodes, rank 0 on n1"), "the first host of the node list"
        assert len(ranks) == 2
        assert set(ranks) == {
            f"ran {command} -c quickstart -c callbacks/preemption --name slurm-{job}-seed{seed} "
            f"--seed_everything {seed} --trainer.num_nodes 2 --trainer.devices 1"
        }


def test_a_wrong_number_of_tasks_fails_at_once(cluster, tmp_path):
    job = submit(cluster, tmp_path, "--ntasks-per-node=2", "--ntasks=3")
    assert cluster.wait(job, {"FAILED", "COMPLETED"}, 60)["ExitCode"] == "2:0"
    assert "3 tasks are not 2 nodes x 2; do not give --ntasks" in (tmp_path / f"slurm-{job}.out").read_text()

"""The sbatch files under a real Slurm: a job in two nodes is preempted in mid-epoch, requeued and resumed."""

import sys
import time
from pathlib import Path

import pytest
import torch
from processes import free_port
from slurm.cluster import AVAILABLE, slurm_cluster

import lightning_rectify

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs slurm-wlm and munge")

SBATCH = Path(lightning_rectify.__file__).parent / "configs" / "slurm" / "train.sbatch"
SCRIPT = Path(__file__).with_name("train_ddp.py")
NODES = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
START_S = 180  # importing torch four times on a busy machine


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster() as running:
        yield running


def submit(cluster, folder, *options):
    """Submit the training script from `folder`; the nodes' names mean nothing to the resolver here."""
    env = {
        "RECTIFY": f"{sys.executable} {SCRIPT}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    return cluster.submit(*NODES, *options, f"--chdir={folder}", str(SBATCH), **env)


def test_two_nodes_run(cluster):
    shown = cluster.run("srun", "--nodes=2", "bash", "-c", "echo $SLURMD_NODENAME")
    assert sorted(shown.split()) == ["n1", "n2"]


def test_a_preempted_job_ends_with_the_weights_of_an_undisturbed_one(cluster, tmp_path):
    cut, whole = submit(cluster, tmp_path), submit(cluster, tmp_path)
    output, progress = tmp_path / f"slurm-{cut}.out", tmp_path / "runs" / f"slurm-{cut}" / "progress"
    deadline = time.monotonic() + START_S
    while not progress.exists() or int(progress.read_text() or 0) < 25:  # the middle of the second of three epochs
        assert time.monotonic() < deadline and cluster.job(cut)["JobState"] in ("PENDING", "RUNNING"), (
            output.read_text() if output.exists() else cluster.logs()
        )
        time.sleep(0.1)
    cluster.run("scancel", "--signal=USR1", cut)
    for job, restarts in ((cut, "1"), (whole, "0")):
        ended = cluster.wait(job, {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}, START_S)
        text = (tmp_path / f"slurm-{job}.out").read_text()
        assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", restarts), text
    text = output.read_text()
    assert "start 1," in text and "start 2," in text, "the output of the first life is kept"
    saved = int(text.split("Preemption: saved step ")[1].split()[0])
    assert 25 <= saved < 40, "saved in mid-epoch"
    assert "Restored all states from the checkpoint at " in text
    weights = [torch.load(tmp_path / "runs" / f"slurm-{job}" / "final.ckpt", weights_only=True) for job in (cut, whole)]
    assert weights[0]["global_step"] == weights[1]["global_step"] == 60
    for name, value in weights[1]["state_dict"].items():
        assert torch.equal(weights[0]["state_dict"][name], value), name


def test_an_array_is_a_study_over_seeds(cluster, tmp_path):
    options = (*NODES, "--array=3-4", "--output=%a.out", f"--chdir={tmp_path}")
    job = cluster.submit(*options, str(SBATCH), "-c", "quickstart", RECTIFY="echo ran")
    for seed in (3, 4):
        cluster.wait(f"{job}_{seed}", {"COMPLETED", "FAILED"}, 60)
        first, *ranks = (tmp_path / f"{seed}.out").read_text().splitlines()
        assert first.endswith("start 1, 2 nodes, rank 0 on n1"), "the first host of the node list"
        assert len(ranks) == 2
        assert set(ranks) == {
            f"ran fit -c quickstart -c callbacks/preemption --name slurm-{job}-seed{seed} "
            f"--seed_everything {seed} --trainer.num_nodes 2 --trainer.devices 1"
        }


def test_a_wrong_number_of_tasks_fails_at_once(cluster, tmp_path):
    job = submit(cluster, tmp_path, "--ntasks-per-node=2", "--ntasks=3")
    assert cluster.wait(job, {"FAILED", "COMPLETED"}, 60)["ExitCode"] == "2:0"
    assert "3 tasks are not 2 nodes x 2; do not give --ntasks" in (tmp_path / f"slurm-{job}.out").read_text()

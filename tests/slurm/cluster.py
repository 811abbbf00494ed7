"""A real Slurm on one machine: munged, slurmctld and two slurmd with their own names, ports and folders."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from processes import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
AVAILABLE = all(shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") for name in (*DAEMONS, "sbatch"))

_CONF = """
ClusterName=rectify
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until the credentials of its first life have expired, two minutes by default
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
# neither cgroups nor accounting: this works in a container
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
KillWait=10
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    folder: Path
    env: dict[str, str]

    def run(self, *command: str, timeout: float = 60, check: bool = True) -> str:
        """Run a command against this cluster and return what it printed."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def submit(self, *arguments: str, **env: str) -> str:
        """Submit a batch script and return the job's id."""
        command = ("sbatch", "--parsable", *arguments)
        done = subprocess.run(command, env={**self.env, **env}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, by field."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(pair.split("=", 1) for pair in shown.split() if "=" in pair)

    def wait(self, job: str, states: set[str], timeout: float) -> dict[str, str]:
        """Wait until the job is in one of the states."""
        deadline = time.monotonic() + timeout
        while (seen := self.job(job))["JobState"] not in states:
            assert time.monotonic() < deadline, f"{seen}\n{self.logs()}"
            time.sleep(0.2)
        return seen

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))


@contextmanager
def slurm_cluster() -> Iterator[Cluster]:
    """Start the daemons in a temporary folder, wait until both nodes are idle, and end everything afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short, because a socket's path is limited to 107 characters
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(256))
    key.chmod(0o600)
    ports = [free_port() for _ in range(3)]
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(host=socket.gethostname().partition(".")[0], user=getpass.getuser(), folder=folder, ports=ports)
    )
    # Lightning leaves the addresses of an earlier run in this process behind, and sbatch hands the environment on
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MASTER_")}
    env = {**inherited, "SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munge_files = (f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed"))
    cluster, started = Cluster(folder, env), []
    try:
        for name, command in (
            ("munged", ("munged", "-F", "--force", f"--socket={folder}/munge.sock", f"--key-file={key}", *munge_files)),
            ("slurmctld", ("slurmctld", "-D")),
            ("slurmd1", ("slurmd", "-D", "-N", "n1")),
            ("slurmd2", ("slurmd", "-D", "-N", "n2")),
        ):
            with open(folder / f"{name}.out", "w") as output:
                started.append(subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT))
            if name == "munged":
                _wait_for(lambda: (folder / "munge.sock").exists(), cluster)
        _wait_for(lambda: cluster.run("sinfo", "-h", "-N", "-o", "%T", check=False).split() == ["idle"] * 2, cluster)
        yield cluster
    finally:
        with suppress(Exception):
            cluster.run("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}", timeout=10, check=False)
            cluster.run("scancel", f"--user={getpass.getuser()}", timeout=10, check=False)
            _wait_for(lambda: not cluster.run("squeue", "-h", check=False).strip(), cluster, 10)
        for process in reversed(started):
            process.terminate()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        for pid in _belonging_to(conf):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(condition, cluster: Cluster, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"the cluster did not come up\n{cluster.logs()}"
        time.sleep(0.1)


def _belonging_to(conf: Path) -> list[int]:
    """Processes that carry this cluster's SLURM_CONF: its daemons, steps and tasks, and nothing else."""
    wanted, found = f"SLURM_CONF={conf}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found

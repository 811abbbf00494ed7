"""What the processes of one launch tell each other before there is a process group."""

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ..errors import RectifyError
from ..files import atomic_path, safe_name

AGREE_WITHIN_S = 120


@dataclass
class Launch:
    """A group of processes that srun, torchrun or a script started side by side.

    Attributes:
        rank: 0 for a process that stands alone, or that has Lightning start the others.
        key: a name no other launch has; empty for a process that stands alone.
        shared: a folder that all can see, for launchers without a store.
    """

    rank: int
    key: str
    shared: Path

    @staticmethod
    def of_this_process(shared: Path) -> "Launch":
        env = os.environ
        if int(env.get("WORLD_SIZE", "1")) > 1 and "MASTER_PORT" in env:
            parts = [env.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
            # torchrun counts its restarts; otherwise the launching process tells two launches on one port apart
            parts.append(env.get("TORCHELASTIC_RESTART_COUNT", str(os.getppid())))
            return Launch(int(env.get("RANK", "0")), safe_name("-".join(parts)), shared)
        if int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in env:
            parts = [env.get(key, "0") for key in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
            return Launch(int(env["SLURM_PROCID"]), safe_name("-".join(parts)), shared)
        return Launch(0, "", shared)

    def tell(self, message: str) -> None:
        """Say one message to the other processes; rank 0 calls this once."""
        if not self.key:
            return
        if store := self._store():
            store.set(self.key, message)
            return
        with atomic_path(self._note) as path:
            path.write_text(message)

    def hear(self) -> str:
        """Return rank 0's message.

        Raises:
            RectifyError: none came in time.
        """
        if store := self._store():
            return store.get(self.key).decode()
        deadline = time.monotonic() + AGREE_WITHIN_S
        while time.monotonic() < deadline:
            if self._note.is_file():
                return self._note.read_text()
            time.sleep(0.1)
        raise RectifyError(f"--runs_dir: {self.shared} is not shared between the nodes; choose a folder all can see.")

    @property
    def _note(self) -> Path:
        return self.shared / f".launch-{self.key}"

    def _store(self):
        """The key-value store of torchrun's agent, which spans its nodes; None under other launchers."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return None
        from torch.distributed import TCPStore

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=AGREE_WITHIN_S))

from pathlib import Path

from processes import run_ranks


def test_a_kill_at_any_moment_leaves_the_last_good_checkpoint_whole(tmp_path):
    """24 kills, every second one during a write: all checkpoints load, and the last life ends as if unharmed."""
    [result] = run_ranks(Path(__file__).with_name("kill_run.py"), str(tmp_path / "run"), world_size=1)
    assert len(result["steps"]) == 24 and result["early"] == 0
    assert result["torn"] >= 5, "kills met unfinished files, or the test shows nothing"
    assert result["equal"], "the survivor has the weights of a run that was never killed"
    assert result["leftovers"] == []


def test_a_kill_at_any_moment_leaves_a_whole_sealed_folder(tmp_path):
    """20 kills each with an exchange and with two renames: a whole folder is found, in its place if exchanged."""
    [result] = run_ranks(Path(__file__).with_name("kill_folders.py"), str(tmp_path / "run"), world_size=1)
    assert result["exchange"]["met"] >= 5 and result["rename"]["met"] >= 5, "kills met unfinished folders"
    assert result["exchange"]["displaced"] == 0

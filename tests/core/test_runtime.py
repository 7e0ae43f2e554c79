"""Process tuning: what is chosen, what takes effect, what the user's word changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scanwise.core import runtime

linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc and libgomp are Linux's")


def run_python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process whose environment has no tuning but `environ`."""
    tuned = ("OMP_", "GOMP_", "MALLOC_", "GLIBC_", "SCANWISE_", "MKL_", "OPENBLAS_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(tuned)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environ,
        capture_output=True,
        text=True,
        check=True,
    )


@linux
def test_the_wait_policy_reaches_torchs_openmp_library() -> None:
    # libgomp prints what it reads when it is loaded.
    code = (
        "from scanwise.core.runtime import tune_process; import json; tune_process(); import torch;"
        "print(json.dumps(tune_process()))"
    )
    done = run_python(code, OMP_DISPLAY_ENV="verbose")
    assert f"GOMP_SPINCOUNT = '{runtime.SPIN_COUNT}'" in done.stderr
    said = json.loads(done.stdout)
    assert said["wait_policy"]["in_effect"]
    assert said["threads"]["in_effect"]


@linux
def test_too_late_for_the_wait_policy_is_said() -> None:
    code = (
        "import torch; from scanwise.core.runtime import tune_process; import json;"
        "print(json.dumps(tune_process()))"
    )
    said = json.loads(run_python(code).stdout)
    assert not said["wait_policy"]["in_effect"]
    assert "torch was imported before" in said["wait_policy"]["source"]


@linux
def test_the_users_environment_is_respected() -> None:
    code = (
        "from scanwise.core.runtime import tune_process; import json, os; said = tune_process();"
        "import torch; said = tune_process();"
        "print(json.dumps([said, os.environ.get('GOMP_SPINCOUNT')]))"
    )
    environ = {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "2"}
    said, spin = json.loads(run_python(code, **environ).stdout)
    assert spin is None
    assert said["threads"] == {"value": 2, "source": "OMP_NUM_THREADS", "in_effect": True}
    assert not said["allocator"]["in_effect"]
    said, spin = json.loads(run_python(code, SCANWISE_TUNE="0").stdout)
    assert spin is None
    assert said["wait_policy"]["source"] == "SCANWISE_TUNE=0"


def test_threads_are_counted_alike_before_and_after_torch_is_loaded() -> None:
    code = (
        "from scanwise.core.runtime import thread_count, tune_process; tune_process({});"
        "before = thread_count(); import torch; tune_process(); print(before, thread_count());"
        "torch.set_num_threads(5); print(thread_count())"
    )
    cores = runtime.choose_threads({})[0]
    assert run_python(code.format("")).stdout.split() == [str(cores), str(cores), "5"]
    assert run_python(code.format("3")).stdout.split() == ["3", "3", "5"]


@linux
def test_freed_memory_is_kept() -> None:
    # With M_MMAP_MAX = 0 a large block is not mapped on its own: mallinfo2().hblks does not rise.
    code = """
import ctypes
from scanwise.core.runtime import tune_process
tune_process()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.mallinfo2.restype = type("Info", (ctypes.Structure,), {"_fields_": [
    (name, ctypes.c_size_t) for name in "abcdefghij"]})
before = libc.mallinfo2().d
block = libc.malloc(ctypes.c_size_t(64 << 20))
print(libc.mallinfo2().d - before)
"""
    assert run_python(code).stdout.strip() == "0"
    assert run_python(code, SCANWISE_TUNE="0").stdout.strip() == "1"


def test_nothing_heavy_is_imported_and_workers_inherit_no_thread_count() -> None:
    code = (
        "import sys, os; from scanwise.core.runtime import tune_process; tune_process();"
        "assert not {'torch', 'numpy', 'cv2'} & sys.modules.keys();"
        "assert 'OMP_NUM_THREADS' not in os.environ"
    )
    run_python(code)


def test_joblib_workers_share_the_cores() -> None:
    # 2 workers: each gets half of the cores, although the parent uses all of them.
    code = """
from scanwise.core.runtime import tune_process
tune_process()
from joblib import Parallel, delayed, cpu_count
def threads():
    import scanwise.core.runtime as runtime
    runtime.tune_process()
    import torch
    runtime.apply_threads()
    return torch.get_num_threads()
if __name__ == "__main__":
    counts = Parallel(n_jobs=2)(delayed(threads)() for _ in range(2))
    assert max(counts) <= max(1, cpu_count() // 2), counts
"""
    run_python(code)


def test_limit_threads_reaches_every_library() -> None:
    code = """
import json
import cv2, numpy, scipy.linalg, sklearn, torch
from scanwise.core.runtime import limit_threads
from threadpoolctl import threadpool_info
limit_threads(1)
print(json.dumps([torch.get_num_threads(), cv2.getNumThreads(),
                  [pool["num_threads"] for pool in threadpool_info()]]))
"""
    in_torch, in_cv2, pools = json.loads(run_python(code).stdout)
    assert in_torch == in_cv2 == 1
    assert pools
    assert set(pools) == {1}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, (3, "OMP_NUM_THREADS")),
        ({"OMP_NUM_THREADS": "5,2"}, (5, "OMP_NUM_THREADS")),
        ({"SCANWISE_THREADS": "2", "OMP_NUM_THREADS": "3"}, (2, "SCANWISE_THREADS")),
    ],
)
def test_the_users_word_decides_the_threads(
    environ: dict[str, str], expected: tuple[int, str]
) -> None:
    assert runtime.choose_threads(environ) == expected


def test_threads_are_physical_cores_within_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_allowed_cpus", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(runtime, "_physical_cores", lambda cpus: len(cpus) // 2)
    monkeypatch.setattr(runtime, "cgroup_cpu_quota", lambda: None)
    assert runtime.choose_threads({"OMP_NUM_THREADS": "auto"}) == (2, "physical cores")
    monkeypatch.setattr(runtime, "cgroup_cpu_quota", lambda: 1.5)
    assert runtime.choose_threads({}) == (1, "container quota of 1.5 CPUs")


def test_hyperthreads_of_one_core_count_once(tmp_path: Path) -> None:
    for cpu in range(4):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    assert runtime._physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert runtime._physical_cores({0, 2}, tmp_path) == 1
    assert runtime._physical_cores({0, 1, 9}, tmp_path) == 3  # no topology: every CPU counts


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_quota_of_the_group_and_its_parents_holds(
    tmp_path: Path, version: int
) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    base = root if version == 2 else root / "cpu"
    (base / "pod" / "box").mkdir(parents=True)
    membership.write_text("0::/pod/box\n" if version == 2 else "3:cpu,cpuacct:/pod/box\n")

    def limit(folder: Path, quota: str) -> None:
        if version == 2:
            (folder / "cpu.max").write_text(f"{quota} 100000\n")
        else:
            (folder / "cpu.cfs_quota_us").write_text(quota.replace("max", "-1"))
            (folder / "cpu.cfs_period_us").write_text("100000\n")

    limit(base / "pod" / "box", "max")
    assert runtime.cgroup_cpu_quota(membership, root) is None
    limit(base / "pod", "250000")
    assert runtime.cgroup_cpu_quota(membership, root) == 2.5
    limit(base / "pod" / "box", "400000")
    assert runtime.cgroup_cpu_quota(membership, root) == 2.5
    assert runtime.cgroup_cpu_quota(tmp_path / "absent", root) is None


def test_environment_is_json_and_names_what_moves_numbers() -> None:
    runtime.tune_process()
    facts = json.loads(json.dumps(runtime.environment("cpu: 4 threads"), allow_nan=False))
    assert facts["packages"]["torch"]
    assert facts["device"] == "cpu: 4 threads"
    assert {"value", "source", "in_effect"} == facts["tuning"]["threads"].keys()
    assert facts["cores"] >= 1


def test_git_state_sees_commit_and_changes(tmp_path: Path) -> None:
    assert runtime.git_state(tmp_path) is None

    def git(*words: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-m", "a")
    state = runtime.git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["clean"]
    (tmp_path / "a.txt").write_text("2")
    assert not runtime.git_state(tmp_path)["clean"]


def test_one_blas_thread_is_one_thread_and_then_as_before():
    import numpy  # noqa: F401
    from threadpoolctl import threadpool_info

    def threads() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    before = threads()
    assert before
    with runtime.one_blas_thread():
        assert set(threads()) == {1}
    assert threads() == before

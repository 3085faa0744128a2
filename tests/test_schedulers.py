"""What computes a plan: parents first, each stage once, whatever is lost on the way."""

import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from conftest import small
from stages import cores_of, endless, noted

import qstrategies as qs
from qstrategies.cli import main
from qstrategies.experiment.comparison import plan, read_records
from qstrategies.experiment.tasks import tasks_of
from qstrategies.schedulers import SCHEDULERS, folder
from qstrategies.schedulers.base import ATTEMPTS, Outcome, Resources, Task
from qstrategies.schedulers.folder import Place, work
from qstrategies.strategies import STRATEGIES

CONFIG = small("no_norm")


def task(name, *parents, seed=0):
    return Task(name, "run", dataclasses.replace(CONFIG, seed=seed), parents)


DIAMOND = [task("a"), task("b", "a"), task("c", "a"), task("d", "b", "c"), task("alone")]


def cluster():
    """One of this machine, for as long as the tests run."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'qstrategies[ray]'")
    ray = importlib.import_module("ray")
    if not ray.is_initialized():
        here = {"PYTHONPATH": os.pathsep.join(sys.path)}
        ray.init("local", num_cpus=2, include_dashboard=False, runtime_env={"env_vars": here})


def made(name, tmp_path, jobs=2):
    if name == "ray":
        cluster()
    notes = tmp_path / "notes"
    notes.mkdir()
    resources = Resources(jobs=jobs, threads=1, folder=tmp_path, machine="this")
    return SCHEDULERS.get(name)(functools.partial(noted, notes), resources), notes


def outcomes(scheduler, tasks):
    for each in tasks:
        scheduler.submit(each)
    return {outcome.name: outcome for outcome in scheduler.wait()}


@pytest.mark.parametrize("name", SCHEDULERS.names())
def test_every_stage_is_computed_once_and_knows_its_parents(name, tmp_path):
    scheduler, notes = made(name, tmp_path)
    found = outcomes(scheduler, DIAMOND)
    assert found.keys() == {"a", "b", "c", "d", "alone"}
    assert all(outcome.reason is None for outcome in found.values())
    seen = {path.name.partition("-")[0]: path.read_text() for path in notes.iterdir()}
    assert seen == {"a": "", "b": "a", "c": "a", "d": "b c", "alone": ""}
    assert len(list(notes.iterdir())) == 5


@pytest.mark.parametrize("name", SCHEDULERS.names())
def test_what_fails_reaches_its_children_and_stops_nobody_else(name, tmp_path):
    scheduler, _ = made(name, tmp_path)
    found = outcomes(scheduler, [task("fails"), task("child", "fails"), task("alone")])
    reasons = {key: outcome.reason for key, outcome in found.items()}
    assert reasons == {"fails": "on purpose", "child": "on purpose", "alone": None}


def test_processes_share_the_cores(tmp_path):
    cores = os.sched_getaffinity(0)
    for jobs in (1, len(cores), len(cores) + 1):
        resources = Resources(jobs=jobs, threads=1, folder=tmp_path, machine="this")
        scheduler = SCHEDULERS.get("processes")(cores_of, resources)
        found = outcomes(scheduler, [task(f"t{number}") for number in range(jobs)])
        seen = {int(core) for each in found.values() for core in each.reason.split()}
        assert seen <= cores
        widths = {len(each.reason.split()) for each in found.values()}
        assert widths == ({1} if jobs <= len(cores) else {len(cores)})


def test_an_interruption_does_not_wait_for_what_is_computed(tmp_path):
    resources = Resources(jobs=2, threads=1, folder=tmp_path, machine="this")
    scheduler = SCHEDULERS.get("processes")(endless, resources)
    scheduler.submit(task("slow"))
    scheduler.submit(task("quick"))
    waiting = scheduler.wait()
    assert next(waiting).name == "quick"
    with pytest.raises(KeyboardInterrupt):
        waiting.throw(KeyboardInterrupt)
    assert not multiprocessing.active_children()


def test_a_lost_process_is_replaced_and_its_stage_computed_again(tmp_path):
    scheduler, notes = made("processes", tmp_path)
    found = outcomes(scheduler, [task("stumbles"), task("child", "stumbles"), task("alone")])
    assert all(outcome.reason is None for outcome in found.values()) and len(found) == 3
    assert len(list(notes.glob("stumbles-*"))) == 2


def test_a_stage_that_no_process_survives_fails_alone(tmp_path):
    scheduler, notes = made("processes", tmp_path, jobs=1)
    found = outcomes(scheduler, [task("dies"), task("child", "dies"), task("alone")])
    assert found["alone"].reason is None
    assert "3 processes ended without a word" in found["dies"].reason
    assert found["child"].reason == found["dies"].reason
    assert len(list(notes.glob("dies-*"))) == ATTEMPTS


def counted(place, each, parents):
    with place.open("a") as file:
        file.write(f"{each.name} {threading.get_ident()}\n")
    time.sleep(0.01)
    return Outcome(each.name)


def workers(place, log, count):
    found = [{} for _ in range(count)]

    def one(number):
        for outcome in work(place, functools.partial(counted, log), leaves=True):
            found[number][outcome.name] = outcome

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(folder, "PAUSE", 0.01)


def test_workers_of_a_folder_share_the_stages(tmp_path, quick):
    place, log = Place(tmp_path, "this"), tmp_path / "log"
    tasks = [each for n in range(20) for each in (task(f"f{n}"), task(f"r{n}", f"f{n}"))]
    place.begin(tasks)
    found = workers(place, log, 3)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == len(tasks) == len({name for name, _ in lines})
    assert len({who for _, who in lines}) == 3
    assert all(each.keys() == {task.name for task in tasks} for each in found)


def test_the_claim_of_a_lost_worker_is_given_up(tmp_path, quick):
    place, log = Place(tmp_path, "this"), tmp_path / "log"
    place.begin([task("a"), task("b", "a")])
    claim = place.claims / "a.0"
    claim.touch()
    assert place.claim(task("a")) is None  # touched just now
    os.utime(claim, (time.time() - folder.GIVEN_UP - 1,) * 2)
    (found,) = workers(place, log, 1)
    assert found.keys() == {"a", "b"} and (place.claims / "a.1").exists()


def test_a_loss_that_many_workers_see_is_one(tmp_path):
    """Each of them has looked at the claim before one of them takes it over."""
    place = Place(tmp_path, "this")
    place.begin([task("a")])
    (place.claims / "a.0").touch()
    seen = threading.Barrier(4)
    real, found = place._age, []

    def waiting(path):
        age = real(path)
        if path.name == "a.0":
            seen.wait(10)
            return folder.GIVEN_UP
        return age

    place._age = waiting
    threads = [
        threading.Thread(target=lambda: found.append(place.claim(task("a")))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [claim.losses for claim in found if claim] == [1]


def test_a_stage_with_which_workers_are_lost_again_and_again_fails(tmp_path, quick):
    place, log = Place(tmp_path, "this"), tmp_path / "log"
    place.begin([task("a")])
    for losses in range(ATTEMPTS):
        (place.claims / f"a.{losses}").touch()
        os.utime(place.claims / f"a.{losses}", (time.time() - folder.GIVEN_UP - 1,) * 2)
    (found,) = workers(place, log, 1)
    assert "ended without a word" in found["a"].reason and not log.exists()


def test_all_stages_of_a_seed_are_computed_on_one_class_of_machine(tmp_path, quick):
    other, log = Place(tmp_path, "another"), tmp_path / "log"
    other.begin([task("a", seed=1), task("b", seed=2)])
    assert other.is_for_us(task("a", seed=1))
    place = Place(tmp_path, "this")
    assert not place.is_for_us(task("c", seed=1))
    (found,) = workers(place, log, 1)
    assert found.keys() == {"b"}


def test_a_folder_without_a_plan_is_named(tmp_path):
    with pytest.raises(qs.InputError, match="compare --scheduler folder --out"):
        Place(tmp_path, "this").tasks()
    (tmp_path / "plan").mkdir()
    Path(tmp_path / "plan" / "plan.json").write_text('{"tasks": [{"name": 3}]}')
    with pytest.raises(qs.InputError, match="the plan"):
        Place(tmp_path, "this").tasks()


def test_a_plan_has_every_training_once_before_what_needs_it():
    names = ("no_norm", "cle", "finetune", "qat")
    base = plan(CONFIG, names, [8, 4], [0])
    tasks = tasks_of(base)
    stages = [each.stage for each in tasks]
    assert [stages.count(each) for each in ("float", "tuned", "run")] == [1, 3, 8]
    before = set()
    for each in tasks:
        assert before >= set(each.parents)
        before.add(each.name)
    assert len(tasks_of([dataclasses.replace(base[0], seed=each) for each in range(3)])) == 6


THINGS = '''
import numpy as np
import torch
from torch import nn

import qstrategies as qs


@qs.models.register("mini")
class Mini(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


@qs.datasets.register("noise_of_three")
def noise():
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 300)
    x = random.integers(0, 100, (300, 1, 8, 8)) + 50 * y[:, None, None, None]
    return qs.datasets.from_arrays(x.astype(np.uint8), y)


@qs.strategies.register("broken")
class Broken(qs.Strategy):
    """Fails."""

    summary = "fails"
    course = qs.STRATEGIES.get("cle").course

    def rewrite(self, graph):
        raise ZeroDivisionError("on purpose")
'''


def command(folder, *options):
    """``compare`` of three strategies, one of which fails."""
    things = folder.parent / "things.py"
    things.write_text(THINGS)
    given = ["no_norm", "qat", "broken", "--bits", "4", "--epochs", "1", "--batch-size", "32"]
    found = [sys.executable, "-m", "qstrategies", "compare", *given, "--use", str(things)]
    found += ["--model", "mini", "--dataset", "noise_of_three", "--out", str(folder)]
    found += ["--calibration-images", "64", "--threads", "1", "--cache-dir", str(folder)]
    return [*found, *options]


def left_in(folder):
    """What it leaves in ``folder``, but for times."""
    records = {}
    for record in read_records(folder):
        curve = tuple(dataclasses.replace(each, seconds=0) for each in record.curve)
        plain = {"speeds": (), "seconds": {}, "peak_bytes": None, "curve": curve, "used": ()}
        trace = record.traceback and record.traceback.splitlines()[-1]
        records[record.config.run_id] = dataclasses.replace(record, **plain, traceback=trace)
    return records


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "runs"
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return left_in(folder)


def test_a_failed_run_stops_no_other(alone):
    status = {(each.config.strategy, each.status) for each in alone.values()}
    assert status == {("no_norm", "done"), ("qat", "done"), ("broken", "failed")}
    broken = next(each for each in alone.values() if each.status == "failed")
    assert broken.reason == broken.traceback == "ZeroDivisionError: on purpose"


@pytest.mark.parametrize("scheduler", ["processes", "folder"])
def test_killed_in_the_middle_it_goes_on_to_the_same_result(
    alone, tmp_path, scheduler, registries, capfd
):
    jobs = "2" if scheduler == "processes" else "1"
    folder, options = tmp_path / "runs", ("--jobs", jobs, "--scheduler", scheduler)
    first = subprocess.Popen(
        command(folder, *options), start_new_session=True, stderr=subprocess.DEVNULL
    )
    while not list(folder.glob("stages/*.safetensors")):
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    for _ in range(500):  # its processes end with it
        if not alive(first.pid):
            break
        time.sleep(0.01)
    assert not alive(first.pid)
    assert main(command(folder, *options)[3:]) == 0
    assert left_in(folder) == alone
    if scheduler == "processes":
        capfd.readouterr()
        assert main(command(folder)[3:]) == 0
        said = capfd.readouterr().err
        assert left_in(folder) == alone
        assert "it had failed: ZeroDivisionError: on purpose" in said
        assert "run again: broken-w4" in said and "no_norm-w4" not in said


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("registry", "name"), [(qs.DATASETS, "small_mnist"), (qs.MODELS, "cnn"), (STRATEGIES, "cle")]
)
def test_what_only_this_process_knows_is_refused_for_others(workspace, registry, name):
    config = small("cle+adaround", dataset="small_mnist")
    with (
        registry.lent(name, registry.get(name)),
        pytest.raises(qs.InputError, match=f"{name!r} is known to this process only: put it into"),
    ):
        qs.run_all([config], dataclasses.replace(workspace, folder=workspace.folder / "j"), jobs=2)


UNGUARDED = """
import functools, pathlib, stages
from qstrategies.records import ExperimentConfig
from qstrategies.schedulers.base import Resources, Task
from qstrategies.schedulers.processes import Processes
folder = pathlib.Path("notes")
folder.mkdir()
scheduler = Processes(functools.partial(stages.noted, folder), Resources(1, 1, folder, ""))
scheduler.submit(Task("a", "run", ExperimentConfig(strategy="qat")))
print(*scheduler.wait())
"""


@pytest.mark.parametrize("how", ["file", "stdin", "text"])
def test_other_processes_do_not_run_the_script_again(tmp_path, how):
    (tmp_path / "script.py").write_text(UNGUARDED)
    given = {"file": ["script.py"], "stdin": ["-"], "text": ["-c", UNGUARDED]}
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, *given[how]],
        input=UNGUARDED if how == "stdin" else "",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "" and done.stdout.startswith("Outcome(name='a'")


def test_no_cluster_of_ray_is_started(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    fake = types.SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(qs.InputError, match="needs a cluster: `ray start --head`"):
        SCHEDULERS.get("ray")(noted, Resources(2, 1, tmp_path, "this"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(qs.InputError, match=r"pip install 'qstrategies\[ray\]'"):
        SCHEDULERS.get("ray")(noted, Resources(2, 1, tmp_path, "this"))


def test_several_jobs_of_a_scheduler_that_has_one_are_refused(workspace):
    with pytest.raises(qs.InputError, match="got 2 jobs: start `qstrategies work`"):
        qs.run_all([CONFIG], workspace, scheduler="folder", jobs=2)


def test_an_unknown_scheduler_is_refused(workspace):
    with pytest.raises(qs.InputError, match="unknown scheduler 'proceses'. Did you mean"):
        qs.run_all([CONFIG], workspace, scheduler="proceses", jobs=2)

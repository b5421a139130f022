"""From settings to a trained artifact: what every kind of training does around its workers.

What a run needs to go on lives beside the result, in `OUT.run/`: checkpoints, metrics.csv,
curves.png, tensorboard/.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from seqvis.artifacts import MANIFEST
from seqvis.storage import Location
from seqvis.training.fit import DECISIVE, Report, WorkerFunction, until_stopped
from seqvis.training.runlog import RunLog
from seqvis.training.workers import this_worker

if TYPE_CHECKING:
    from seqvis.cluster import Session  # loads Ray


def launch(
    function: WorkerFunction,
    work: Any,
    out: Location,
    report: Report,
    num_workers: int,
    use_gpu: bool,
    cpus_per_worker: int,
    restart: bool,
    gpus_per_worker: float = 1.0,
    stoppable: bool = False,
    min_workers: int = 0,
    session: "Session" = nullcontext,
) -> dict[str, Any]:
    """Runs `function(work, …)` in the workers (in this process if there are none), keeps the run's
    records, returns its metrics. Workers need an initialised Ray, or a `session` that starts one.

    The function's first worker reports {"event": "done", "metrics": …} when the artifact stands.
    With `restart` the checkpoints of an earlier run are deleted. A run that `report` stopped (see
    `run_workers`) has no metrics. Raises what the workers raise.
    """
    run = run_directory(out)
    if restart:
        run.delete()
    elif (out / MANIFEST).exists() and not (run / "checkpoints").exists():
        text = f"{out.uri}: holds a finished model, which is replaced at the end; {run.uri} has no "
        report({"event": "note", "text": f"{text}checkpoint to go on from"})
    log = RunLog(run)
    done: dict[str, Any] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] in DECISIVE:
            log.note(event["history"], event["best_epoch"])
        if event["event"] == "done":
            done.update(event["metrics"])
        report(event)

    try:
        if num_workers == 0:
            until_stopped(function, work, this_worker(use_gpu), listen)
        else:
            from seqvis.training.ray_trainer import run_workers  # importing Ray takes a second

            with session():
                run_workers(
                    function,
                    work,
                    listen,
                    num_workers,
                    use_gpu,
                    run / "ray",
                    cpus_per_worker,
                    gpus_per_worker=gpus_per_worker,
                    stoppable=stoppable,
                    min_workers=min_workers,
                )
    except Exception:
        log.flush()
        raise
    # Not after an interruption: `ray job stop` leaves three seconds, and the next sitting, which
    # knows the whole history, writes them anew.
    log.flush()
    (run / "ray").delete()
    return done


def run_directory(out: Location) -> Location:
    """`OUT.run`, beside the artifact."""
    return out.beside(".run")

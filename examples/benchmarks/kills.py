"""A training that is killed (signal 9) at random moments until it is through.

Every life of it is forked from this process, which has imported everything and started nothing: a
fork costs milliseconds, and the backend of JAX starts again in each.
"""

import dataclasses
import hashlib
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import wdlab
from examples.runs.stop import StopRequest
from wdlab.training import Checkpoints

INTERVAL = 3  # Steps between two saves.
ROWS = 64
_HEARTBEAT = 10  # Seconds after which a process that says nothing is taken for dead.


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: where it saves, how far it goes, on how many processes."""

    folder: Path
    steps: int
    wait: bool  # Whether each save is waited for.
    processes: int = 1


@dataclasses.dataclass
class Tally:
    """What happened over all lives."""

    kills: int = 0
    inside_saves: int = 0  # Kills while a save was under way.
    without_restorable: int = 0  # Lives that found nothing, after a save had been finished.
    most_lost: int = 0  # Steps between the last save begun before a kill and the step resumed at.
    damaged: int = 0  # Steps that were set aside.
    resumed: int = 0  # Where the last life went on.
    digest: str = ""


def optimizer() -> optax.GradientTransformation:
    """Schedule, clipping, and an accumulation whose windows do not end where the saves are."""
    rate = wdlab.schedules.warmup_cosine(0.05, warmup_steps=2, decay_steps=2000)
    inner = wdlab.optimizers.adamw(rate, weight_decay=0.1, coupling="lr")
    clipped = optax.chain(wdlab.clip_by_global_norm(1.0), inner)
    return optax.MultiSteps(clipped, 2).gradient_transformation()


def make_step(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """The jitted step of a small network with dropout; key and step decide all randomness."""

    def loss_fn(params: Any, key: jax.Array) -> jax.Array:
        data, mask = jax.random.split(key)
        x_BxD = jax.random.normal(data, (8, ROWS))
        hidden_BxH = jnp.tanh(x_BxD @ params["in"])
        kept_BxH = jnp.where(jax.random.bernoulli(mask, 0.9, hidden_BxH.shape), hidden_BxH, 0.0)
        return jnp.mean((kept_BxH @ params["out"] - x_BxD[:, :4]) ** 2)

    def step(params: Any, opt_state: Any, key: jax.Array, number: jax.Array) -> tuple:
        grads = jax.grad(loss_fn)(params, jax.random.fold_in(key, number))
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(step, donate_argnums=(0, 1))


def initial_state(tx: optax.GradientTransformation) -> Any:
    """Parameters split by rows over all devices of all processes."""
    mesh = jax.make_mesh((jax.device_count(),), ("fsdp",), (AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))

    whole = NamedSharding(mesh, PartitionSpec())

    def make() -> Any:
        wide = jax.random.normal(jax.random.key(1), (ROWS, 16)) / 8
        return {"in": wide, "out": jnp.zeros((16, 4))}, jax.random.key(0)

    shardings = {"in": rows, "out": whole}, whole
    params, key = jax.jit(make, out_shardings=shardings)()
    return {"params": params, "opt_state": wdlab.init_opt_state(tx, params), "key": key}


def live(run: Run, say: Callable[..., None]) -> None:
    """One life: resume, then train to the end, telling each event before and after it happens."""
    with StopRequest() as stop, Checkpoints(run.folder) as checkpoints:
        say("began", 0)
        tx = optimizer()
        state, step, start = initial_state(tx), make_step(tx), 0
        restored = checkpoints.restore(state)
        if restored is not None:
            state, start = restored.state, restored.step
        say("resumed", start, len(restored.damaged) if restored else 0)
        for number in range(start, run.steps):
            params, opt_state = step(state["params"], state["opt_state"], state["key"], number)
            state |= {"params": params, "opt_state": opt_state}
            stopped = stop.requested
            if (number + 1) % INTERVAL == 0 or number + 1 == run.steps or stopped:
                say("saving", number + 1)
                checkpoints.save(number + 1, state)
                if run.wait or stopped:
                    checkpoints.wait()
                    say("saved", number + 1)
            if stopped:
                say("stopped", number + 1)
                return
    say("digest", _digest(state))


def _digest(state: Any) -> str:
    sums = jax.tree.leaves(jax.tree.map(wdlab.training.checksum.leaf_checksum, state))
    return hashlib.sha256(b"".join(np.asarray(pair).tobytes() for pair in sums)).hexdigest()[:16]


def fork_lives(run: Run) -> list[tuple[int, Any]]:
    """Starts one life of the run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [fork_life(run, rank, port) for rank in range(run.processes)]


def fork_life(run: Run, rank: int, port: int) -> tuple[int, Any]:
    """Starts one life of one process; its id, and the file in which its events arrive."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, os.fdopen(read)
    status = 1
    try:
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # gloo reports each connection.
        with os.fdopen(write, "w", buffering=1) as pipe:
            _meet(run, rank, port)
            live(run, lambda *event: print(*event, file=pipe))
            status = 0
    except BaseException:  # noqa: BLE001  The copy of this process must not go on as its parent.
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def _meet(run: Run, rank: int, port: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(run.folder.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if run.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        address = f"127.0.0.1:{port}"
        jax.distributed.initialize(
            address, run.processes, rank, heartbeat_timeout_seconds=_HEARTBEAT
        )


def run_with_kills(run: Run, kills: int, rng: random.Random) -> Tally:
    """Forks life after life; the first ``kills`` of them are killed, the last one ends by itself.

    A life is killed a random time after its first save since it resumed has begun, so that most
    kills fall into a save; with several processes, all are killed, one a little before the others.
    """
    tally, last, finished = Tally(), 0, False
    while not tally.digest:
        lives = fork_lives(run)
        delay = rng.uniform(0.0, 0.15) if tally.kills < kills else None
        events = _events_until_end(lives, delay, rng)
        resumed = next((event for event in events if event[0] == "resumed"), None)
        if resumed is None:
            raise RuntimeError("a life ended before it began: see the traceback above")
        tally.damaged += int(resumed[2])
        tally.resumed = int(resumed[1])
        tally.without_restorable += finished and int(resumed[1]) == 0
        tally.most_lost = max(tally.most_lost, last - int(resumed[1]))
        saves = [int(event[1]) for event in events if event[0] == "saving"]
        last = max([last, *saves])
        finished |= len(saves) > 1 or any(event[0] == "saved" for event in events)
        tally.digest = next((event[1] for event in events if event[0] == "digest"), "")
        if not tally.digest:
            tally.kills += 1
            tally.inside_saves += bool(saves) and events[-1][0] == "saving"
    return tally


def _events_until_end(lives: list, delay: float | None, rng: random.Random) -> list[list[str]]:
    """The events of process 0; kills all ``delay`` seconds after the first save has begun."""
    pipe, events = lives[0][1], []
    for line in pipe:
        events.append(line.split())
        if delay is not None and events[-1][0] == "saving":
            time.sleep(delay)
            for pid, _ in rng.sample(lives, len(lives)):
                os.kill(pid, signal.SIGKILL)
            events += [rest.split() for rest in pipe.read().splitlines()]
    for pid, other in lives:
        os.waitpid(pid, 0)
        other.close()
    return [event for event in events if len(event) > 1]  # The last line may be cut off.

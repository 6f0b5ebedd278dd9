"""``python`` in a process of its own, forked from one that has imported what most of them need.

To start Python and to import JAX, Flax, Orbax and the examples takes seconds, a fork milliseconds.
The process that is forked has not begun to use JAX, so that every child's devices, threads and
compiled programs are its own, and a child ends as Python ends.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
_IMPORTED = (
    "examples.gpt.trainer",
    "examples.gpt.flags",
    "examples.resnet.trainer",
    "examples.resnet.flags",
    "examples.benchmarks.kills",
    "wdlab.sweep",
)


class Python:
    """``python *arguments``: ``-m MODULE ...`` or ``-c CODE``; in ``env``, by default this one's.

    Its output goes to two files of the folder.
    """

    def __init__(self, *arguments, folder, env=None):
        self._files = [Path(folder) / f"python-{time.monotonic_ns()}.{end}" for end in ("o", "e")]
        self.returncode = None
        files = [str(file) for file in self._files]
        env = dict(os.environ if env is None else env)
        self.pid = _ask(arguments=[str(a) for a in arguments], env=env, files=files)

    def poll(self):
        """The exit code, as ``subprocess`` has it; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask(ended=self.pid)
        return self.returncode

    def wait(self, timeout=400):
        """The exit code."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(self.stdout + self.stderr)
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    stdout = property(lambda self: self._files[0].read_text())
    stderr = property(lambda self: self._files[1].read_text())


def _ask(**request):
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@functools.cache
def _server():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, "-m", "tests.forks"], cwd=ROOT, text=True, **pipes)
    atexit.register(server.communicate)  # It ends when it is asked no more.
    return server


def _serve():
    """Forks until there is no more to do; in a child, what it is to do."""
    for line in sys.stdin:
        request = json.loads(line)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            return request
        print(json.dumps(answer), flush=True)
    return None


def _become(arguments, env, files):
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _take_over(env)
    kind, what, *rest = arguments
    sys.argv = [kind, *rest]
    if kind == "-c":
        exec(what, {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _take_over(env):
    """The environment, with what JAX read of the old one when it was imported."""
    import jax

    for name, value in env.items():
        if os.environ.get(name) != value and name.lower() in jax.config.values:
            jax.config.update(name.lower(), int(value) if value.isdigit() else value)
    os.environ.clear()
    os.environ.update(env)


if __name__ == "__main__":
    for module in _IMPORTED:
        importlib.import_module(module)
    asked = _serve()
    if asked:
        _become(**asked)

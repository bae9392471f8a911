"""What a process is like: what it has inherited, and which names in it are not what they are elsewhere.

A task of each executor looks at itself, and at what it starts in every way that Python has.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import decimal
import faulthandler
import gc
import json
import locale
import logging
import logging.config
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

#: What prctl(2) tells, by the number of the question.
PRCTL = {"dumpable": 3, "keep capabilities": 7, "seccomp": 21, "timer slack": 30, "no new privileges": 39}
#: What prctl(2) writes where it is told to.
PRCTL_TO = {"parent's death": 2, "subreaper": 37}
#: What proc_pid_status(5) says of a process that it has inherited.
STATUS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn", "SigCgt")

#: The program itself, under either name that a process knows it by.
PROGRAM = ("__main__", "__mp_main__")
#: More functions than anybody registers to run after a fork.
MOST_HOOKS = 200

Facts = dict[str, Any]


def look_everywhere() -> dict[str, Facts]:
    """Return what this process is like, and one made in each way."""
    # Before any other: what starts a process may change it.
    found = {"task": look()}
    found["os.fork"] = _by_os_fork()
    for method in ("fork", "forkserver", "spawn"):
        found[method] = _by_multiprocessing(method)
    command = [sys.executable, "-c", "import task_process; task_process.tell()"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    found["subprocess"] = json.loads(done.stdout)
    return found


def look() -> Facts:
    """Return what this process is like."""
    return {**_of_kernel(), **_of_signals(), **_of_python(), "ours": sorted(_ours())}


def tell() -> None:
    """Print what this process is like."""
    print(json.dumps(look()))


def _by_os_fork() -> Facts:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            facts = json.dumps(look()).encode()
            while facts:
                facts = facts[os.write(writing, facts) :]
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        facts = pipe.read()
    os.waitpid(pid, 0)
    return dict(json.loads(facts))


def _send(pipe: Any) -> None:
    pipe.send(look())


def _by_multiprocessing(method: str) -> Facts:
    context: Any = multiprocessing.get_context(method)
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(writing,))
    with _no_program():
        process.start()
    writing.close()
    facts = reading.recv()
    process.join(60)
    return dict(facts)


@contextlib.contextmanager
def _no_program() -> Iterator[None]:
    """Hide the program's own file, which a new Python would run again: Airflow's cannot do so where a task runs."""
    program = sys.modules["__main__"]
    kept = {name: vars(program).get(name) for name in ("__file__", "__spec__")}
    vars(program).update(dict.fromkeys(kept))
    try:
        yield
    finally:
        vars(program).update(kept)


def _of_kernel() -> Facts:
    libc = ctypes.CDLL(None)
    asked = {name: libc.prctl(number, 0, 0, 0, 0) for name, number in PRCTL.items()}
    for name, number in PRCTL_TO.items():
        answer = ctypes.c_int(-1)
        libc.prctl(number, ctypes.byref(answer), 0, 0, 0)
        asked[name] = answer.value
    umask = os.umask(0)
    os.umask(umask)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limits = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT")}
    return {
        "prctl": asked,
        "umask": umask,
        "limits": {name: list(resource.getrlimit(limit)) for name, limit in limits.items()},
        "status": {name: " ".join(status[name].split()) for name in STATUS},
        "folder": str(Path.cwd()),
        "files": dict(Counter(_files())),
        "leads its session": os.getsid(0) == os.getpid(),
        "leads its group": os.getpgid(0) == os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "schedule": [os.sched_getscheduler(0), sorted(os.sched_getaffinity(0))],
        "oom score": int(Path("/proc/self/oom_score_adj").read_text()),
        "threads": len(list(Path("/proc/self/task").iterdir())),
    }


def _files() -> Iterator[str]:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # That of the folder itself.
        if not target.startswith("/proc/"):
            suffix = Path(target).suffix
            # What a process says when nobody listens goes to its supervisor's output, a log by another name.
            yield target.partition(":[")[0] if ":[" in target else {".out": ".log"}.get(suffix, suffix or target)


def _of_signals() -> Facts:
    wakeup = signal.set_wakeup_fd(-1)
    return {
        "handlers": {number.name: _name(signal.getsignal(number)) for number in signal.Signals},
        "wake-up": wakeup,
        "timers": [signal.getitimer(which)[1] for which in (signal.ITIMER_REAL, signal.ITIMER_PROF)],
        "after a fork": sorted(_after_a_fork()),
    }


def _after_a_fork() -> list[str]:
    """Return what has been registered to run in every process that is forked, which Python itself does not tell."""
    gc.unfreeze()
    known = vars(threading)["_after_fork"]
    lists = [each for each in gc.get_objects() if type(each) is list and len(each) < MOST_HOOKS]
    hooks = [each for each in lists if any(hook is known for hook in each)]
    gc.freeze()
    return [_name(hook) for hook in max(hooks, key=len)]


def _of_python() -> Facts:
    return {
        "environment": dict(os.environ),
        "path": sys.path,
        "flags": repr(sys.flags),
        "hooks": {name: _name(vars(sys)[name]) for name in vars(sys) if name.endswith("hook")},
        "thread hook": _name(threading.excepthook),
        "finders": [_name(finder) for finder in sys.meta_path],
        "builtins": sorted(vars(sys.modules["builtins"])),
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "profile": [_name(sys.getprofile()), _name(sys.gettrace())],
        "collector": [gc.isenabled(), list(gc.get_threshold()), len(gc.callbacks)],
        "warnings": sorted(map(repr, warnings.filters)),
        "at exit": vars(atexit)["_ncallbacks"](),
        "faults": faulthandler.is_enabled(),
        "locale": locale.setlocale(locale.LC_ALL),
        "zone": list(time.tzname),
        "decimal": repr(decimal.getcontext()),
        "socket timeout": socket.getdefaulttimeout(),
        "loop policy": type(vars(asyncio.events)["_event_loop_policy"]).__name__,
        "log levels": [logging.root.level, logging.root.manager.disable, logging.raiseExceptions],
        "log handlers": [type(handler).__name__ for handler in logging.root.handlers],
        "log classes": [_name(logging.getLoggerClass()), _name(logging.getLogRecordFactory())],
        "log configuration": _name(logging.config.dictConfig),
        "streams": [_name(type(stream)) for stream in (sys.stdin, sys.stdout, sys.stderr)],
    }


def _name(thing: Any) -> str:
    """Return what tells a function or an object from another in any process."""
    if isinstance(thing, signal.Handlers):
        return thing.name
    if hasattr(thing, "__qualname__"):
        owner = getattr(thing, "__self__", None)
        module = getattr(thing, "__module__", None) or type(owner).__module__
        return f"{module}.{thing.__qualname__}"
    return f"{type(thing).__module__}.{type(thing).__qualname__}" if thing is not None else "None"


def _ours() -> Iterator[str]:
    """Return the names in modules and classes of others that stand for something of this project's."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and not _is_of_project(name) and name not in PROGRAM:
            yield from _ours_in(name, module, set())


def _ours_in(place: str, owner: Any, seen: set[int]) -> Iterator[str]:
    for name, thing in list(vars(owner).items()):
        if _is_ours(thing):
            yield f"{place}:{name}"
        elif issubclass(type(thing), type) and id(thing) not in seen and thing.__module__ == place:
            seen.add(id(thing))
            yield from _ours_in_class(f"{place}:{name}", thing)


def _ours_in_class(place: str, owner: type) -> Iterator[str]:
    for name, thing in list(vars(owner).items()):
        if _is_ours(thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing):
            yield f"{place}.{name}"


def _is_ours(thing: Any) -> bool:
    # By its type, so that nothing that loads a module when it is asked does so.
    kind = type(thing)
    if issubclass(kind, ModuleType):
        return False
    modules = [kind.__module__]
    if issubclass(kind, type | FunctionType | MethodType):
        modules.append(thing.__module__)
    return any(isinstance(module, str) and _is_of_project(module) for module in modules)


def _is_of_project(module: str) -> bool:
    return module == "edge_mqtt" or module.startswith("edge_mqtt.")

"""The process in which code of a model runs. A program of its own (`python -I -S sandboxed.py`), standard library only.

It gives up everything before it reads a job: own user, mount, network, pid, ipc, uts and cgroup namespaces, an empty
read-only root, no capabilities. Then each job runs in a child that keeps one pipe and a seccomp filter of 13 system
calls, with limits on memory, time and output. Standard input: a JSON job a line. Standard output: `ready`, or why not;
then a line for each job. Knows nothing of tasks: what the functions return is compared elsewhere.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time
from typing import Any, NoReturn

MEMORY_BYTES, CPU_SECONDS, WALL_SECONDS, OUTPUT_BYTES = 1 << 29, 1, 3.0, 1 << 16
READY = "ready"

_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
"""CLONE_NEWUSER, NEWNS, NEWPID, NEWNET, NEWIPC, NEWUTS, NEWCGROUP."""
_PRIVATE, _EMPTY = 0x4000 | 0x40000, 0x1 | 0x2 | 0x4 | 0x8  # MS_REC | MS_PRIVATE; RDONLY, NOSUID, NODEV, NOEXEC
_DETACH = 2
_NO_NEW_PRIVS, _DEATH_SIGNAL, _SECCOMP, _FILTER = 38, 1, 22, 2
_NOBODY = 65534

# Of <asm/unistd.h>, what an interpreter needs that computes and allocates.
_CALLS = {
    "x86_64": {
        "write": 1, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigreturn": 15, "mremap": 25, "madvise": 28,
        "exit": 60, "futex": 202, "clock_gettime": 228, "exit_group": 231, "getrandom": 318,
    },
    "aarch64": {
        "write": 64, "mmap": 222, "mprotect": 226, "munmap": 215, "brk": 214, "rt_sigreturn": 139, "mremap": 216,
        "madvise": 233, "exit": 93, "futex": 98, "clock_gettime": 113, "exit_group": 94, "getrandom": 278,
    },
}  # fmt: skip
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_PIVOT_ROOT, _CAPSET = {"x86_64": 155, "aarch64": 41}, {"x86_64": 126, "aarch64": 91}
_BUILTINS = (
    len, sum, max, min, range, abs, sorted, list, str, int, float, bool, set, dict, tuple, enumerate, zip, reversed,
    map, filter, any, all, round, divmod, isinstance, ord, chr, ValueError, IndexError, KeyError, TypeError,
)  # fmt: skip


class RefusedError(Exception):
    """The kernel does not give what the sandbox needs."""


def main() -> None:
    machine = platform.machine()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if machine not in _CALLS or sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise RefusedError(f"no system-call filter is written for {machine}")
        _leave_the_machine(libc)
        _be_the_first_process(libc)
        _empty_the_root(libc, machine)
        _drop_privileges(libc, machine)
        if _run(libc, machine, "def f():\n    return 1", "f", [[]]) != "[1]\n":  # the filter and the limits themselves
            raise RefusedError("a process under the system-call filter does not answer")
    except (RefusedError, OSError) as error:
        _say(str(error))
        return
    _say(READY)
    for line in sys.stdin:
        job = json.loads(line)
        _say(json.dumps(_run(libc, machine, job["source"], job["name"], job["tests"])))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _checked(libc: Any, what: str, returned: int) -> None:
    if returned < 0:
        raise RefusedError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _leave_the_machine(libc: Any) -> None:
    """New namespaces of every kind, in which this user is nobody."""
    uid, gid = os.getuid(), os.getgid()
    _checked(libc, "prctl", libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
    _checked(libc, "new namespaces", libc.unshare(_NAMESPACES))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{_NOBODY} {uid} 1"), ("gid_map", f"{_NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _be_the_first_process(libc: Any) -> None:
    """Go on as the first process of the new pid namespace: when it ends, the kernel ends all others there."""
    child = os.fork()
    if child:
        os.closerange(0, 3)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    _checked(libc, "prctl", libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))


def _empty_the_root(libc: Any, machine: str) -> None:
    """An empty folder that cannot be written to becomes the root; every other mount goes."""
    _checked(libc, "mount", libc.mount(None, b"/", None, ctypes.c_ulong(_PRIVATE), None))
    options = ctypes.c_ulong(_EMPTY)
    _checked(libc, "mount tmpfs", libc.mount(b"none", b"/proc", b"tmpfs", options, b"size=4k,nr_inodes=2"))
    os.chdir("/proc")
    _checked(libc, "pivot_root", libc.syscall(ctypes.c_long(_PIVOT_ROOT[machine]), b".", b"."))
    _checked(libc, "umount", libc.umount2(b".", _DETACH))
    os.chdir("/")
    if os.listdir("/"):
        raise RefusedError("the new root is not empty")


def _drop_privileges(libc: Any, machine: str) -> None:
    _checked(libc, "no_new_privs", libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    header, data = (
        struct.pack("<Ii", 0x20080522, 0),
        bytes(24),
    )  # _LINUX_CAPABILITY_VERSION_3; no capability of any kind
    _checked(libc, "capset", libc.syscall(ctypes.c_long(_CAPSET[machine]), header, data))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))


def _run(libc: Any, machine: str, source: str, name: str, tests: list[list[Any]]) -> str | None:
    """What the function gives for each test, as JSON text; None if it fails, or is killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(libc, machine, write, source, name, tests)
    os.close(write)
    output, deadline = b"", time.monotonic() + WALL_SECONDS
    while len(output) <= OUTPUT_BYTES:
        ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(read, OUTPUT_BYTES) if ready else b""
        if not part:
            break
        output += part
    os.close(read)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if status not in (0, signal.SIGKILL) or not output.endswith(b"\n") or len(output) > OUTPUT_BYTES:
        return None
    return output.decode("latin-1")


def _answer(libc: Any, machine: str, write: int, source: str, name: str, tests: list[list[Any]]) -> NoReturn:
    """Runs in the child: gives up the rest, then runs the code."""
    try:
        os.dup2(write, 1)
        os.close(0)
        os.closerange(2, 1 << 16)
        for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_SECONDS)):
            resource.setrlimit(limit, (value, value))
        for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
            resource.setrlimit(limit, (0, 0))
        _filter_calls(libc, machine)
        known: dict[str, Any] = {builtin.__name__: builtin for builtin in _BUILTINS}
        space: dict[str, Any] = {"__builtins__": known | {"print": lambda *a, **k: None}}
        exec(compile(source, "<answer>", "exec"), space)
        text = json.dumps([_plain(space[name](*test)) for test in tests]).encode() + b"\n"
        if len(text) <= OUTPUT_BYTES:
            os.write(1, text)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _filter_calls(libc: Any, machine: str) -> None:
    """Any system call but the few ends the process; so does one that asks for executable memory or another pipe."""
    calls = dict(_CALLS[machine])
    kill, allow = struct.pack("<HBBI", 0x06, 0, 0, 0x80000000), struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)

    def load(offset: int) -> bytes:  # of struct seccomp_data: 0 number, 4 architecture, 16 and on the arguments
        return struct.pack("<HBBI", 0x20, 0, 0, offset)

    def jump(kind: int, value: int, true: int, false: int) -> bytes:  # 0x15: equal, 0x45: a bit is set
        return struct.pack("<HBBI", kind, true, false, value)

    program = load(4) + jump(0x15, _AUDIT[machine], 1, 0) + kill + load(0)
    program += jump(0x15, calls.pop("write"), 0, 4) + load(16) + jump(0x15, 1, 0, 1) + allow + kill
    for name in ("mmap", "mprotect"):
        program += jump(0x15, calls.pop(name), 0, 4) + load(32) + jump(0x45, 4, 1, 0) + allow + kill  # PROT_EXEC
    for number in calls.values():
        program += jump(0x15, number, 0, 1) + allow
    program += kill
    held = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
    _checked(libc, "seccomp", libc.prctl(_SECCOMP, _FILTER, head, 0, 0))


def _plain(value: Any) -> Any:
    """A value as JSON that tells lists, tuples, sets and dicts apart."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_plain(v) for v in value]
    if type(value) is tuple:
        return {"tuple": [_plain(v) for v in value]}
    if type(value) in (set, frozenset):
        return {"set": sorted((_plain(v) for v in value), key=json.dumps)}
    if type(value) is dict:
        return {"dict": sorted(([_plain(k), _plain(v)] for k, v in value.items()), key=json.dumps)}
    raise TypeError


if __name__ == "__main__":
    main()

"""Hostile programs: none gets out of the sandbox, and each ends with a clear error within its limits."""

import asyncio
import os
import socket
import threading
import time
from datetime import date
from pathlib import Path

import pytest

from components.reasoning.sandbox import Outcome, SandboxLimits, run_program

LIMITS = SandboxLimits(seconds=1.0, memory_mib=32, host_calls=5, output_chars=2000)
LATEST_S = 20  # of a killed program on a busy machine; its limit is one second and the killer's another

FILES = {
    "read a file": ("open('/etc/passwd').read()", "Permission"),
    "read through pathlib": ("from pathlib import Path\nPath('/etc/passwd').read_text()", "Permission"),
    "write a file": ("open('{bait}', 'w').write('out')", "Permission"),
    "append to a file": ("open('{bait}', 'a').write('out')", "Permission"),
    "list a folder": ("import os\nos.listdir('/')", "Permission"),
    "walk out of a folder": ("open('../../../../../../etc/passwd').read()", "Permission"),
    "remove a file": ("import os\nos.remove('{bait}')", ""),
    "the process's own memory": ("open('/proc/self/mem', 'rb').read(1)", "Permission"),
    "the environment in /proc": ("open('/proc/self/environ').read()", "Permission"),
    "a descriptor by number": ("open(0).read()", ""),
    "the environment": ("import os\nos.environ['SECRET_OF_THE_HOST']", ""),
    "the environment by getenv": ("import os\nprint(os.getenv('SECRET_OF_THE_HOST') or 1/0)", ""),
}
NETWORK = {
    "a socket": ("import socket\nsocket.create_connection(('127.0.0.1', {port}))", "No module named 'socket'"),
    "urllib": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}')", "No module named"),
    "http": ("import http.client", "No module named"),
    "requests": ("import requests", "No module named"),
    "asyncio's sockets": ("import asyncio\nawait asyncio.open_connection('127.0.0.1', {port})", ""),
}
PROCESSES = {
    "a shell": ("import os\nos.system('touch {bait}')", "AttributeError"),
    "popen": ("import os\nos.popen('id').read()", "AttributeError"),
    "fork": ("import os\nos.fork()", "AttributeError"),
    "kill": ("import os\nos.kill(1, 9)", "AttributeError"),
    "exec": ("import os\nos.execv('/bin/sh', ['sh'])", "AttributeError"),
    "subprocess": ("import subprocess\nsubprocess.run(['id'])", "No module named 'subprocess'"),
    "ctypes": ("import ctypes\nctypes.CDLL(None).system(b'id')", "No module named 'ctypes'"),
    "threads": ("import threading", "No module named"),
    "multiprocessing": ("import multiprocessing", "No module named"),
    "signals": ("import signal", "No module named"),
}
IMPORTS = {
    "import by name": ("__import__('os').system('id')", "__import__"),
    "importlib": ("import importlib\nimportlib.import_module('os').system('id')", ""),
    "eval": ("eval(\"__import__('os').system('id')\")", "__import__"),
    "exec of a string": ('exec("import subprocess")', ""),
    "compile": ("exec(compile('import subprocess', 'x', 'exec'))", ""),
    "our own code": ("from components.reasoning import sandbox", "No module named"),
    "the interpreter's bindings": ("import pydantic_monty", "No module named"),
    "builtins": ("import builtins\nbuiltins.open('/etc/passwd')", ""),
    "pickle": ("import pickle\npickle.loads(b'cos\\nsystem\\n(S\"id\"\\ntR.')", "No module named"),
}
ESCAPES = {
    "subclasses": ("().__class__.__bases__[0].__subclasses__()", "AttributeError"),
    "globals of a function": ("def f(): pass\nf.__globals__['__builtins__']", "AttributeError"),
    "code of a function": ("def f(): pass\nf.__code__.co_consts", "AttributeError"),
    "frames of a generator": ("def g():\n    yield 1\ng().gi_frame.f_back.f_globals", ""),
    "frames of an exception": ("try:\n    1/0\nexcept Exception as e:\n    e.__traceback__.tb_frame.f_globals", ""),
    "sys.modules": ("import sys\nsys.modules['os'].system('id')", ""),
    "sys._getframe": ("import sys\nsys._getframe(1).f_globals", "AttributeError"),
    "format of an attribute": ("'{{0.__class__.__mro__}}'.format(1)", ""),
    "getattr by parts": ("getattr((), '__cl' + 'ass__').__base__", "AttributeError"),
    "breakpoint": ("breakpoint()", "NameError"),
    "input": ("input()", ""),
    "exit": ("exit(3)", ""),
}
MEMORY = {
    "a list without end": ("a = []\nwhile True: a.append('x' * 100000)", "MemoryError"),
    "a long string": ("'x' * 10**12", "MemoryError"),
    "a doubling string": ("a = 'x'\nwhile True: a += a", "MemoryError"),
    "a large integer": ("2 ** 10**10", "MemoryError"),
    "a nested power": ("9 ** 9 ** 9", "MemoryError"),
    "a wide format": ("f'{{1:{{10**9}}}}'", "MemoryError"),
    "a long join": ("','.join(['x' * 10**6] * 10**5)", ""),
    "a long replace": ("('a' * 10**6).replace('a', 'b' * 10**6)", "MemoryError"),
    "a list of a long range": ("list(range(10**10))", ""),
    "bytes": ("bytes(10**12)", "MemoryError"),
    "a dictionary without end": ("d = {{}}\ni = 0\nwhile True:\n    d[i] = i\n    i += 1", ""),
    "printing without end": ("while True: print('x' * 1000)", ""),
}
TIME = {
    "a loop without end": ("while True: pass", "did not end within 1 s"),
    "a loop that catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "did not end within 1 s",
    ),
    "a long sum": ("sum(range(10**12))", "did not end within 1 s"),
    "a large factorial": ("import math\nmath.factorial(10**8)", ""),
    "sleep": ("import time\ntime.sleep(60)", ""),
    "asyncio's sleep": ("import asyncio\nawait asyncio.sleep(60)", ""),
    "a list that grows while it is read": ("a = [1]\nfor x in a: a.append(x)", "Error"),
}
DEPTH = {
    "recursion without end": ("def f(): return f()\nf()", "RecursionError"),
    "two functions that call each other": ("def f(): return g()\ndef g(): return f()\nf()", "RecursionError"),
    "a repr of itself": ("class A:\n    def __repr__(self): return repr(self)\nrepr(A())", "RecursionError"),
    "brackets": ("(" * 9000 + ")" * 9000, "nested"),
    "a long chain of minus": ("-" * 9000 + "1", ""),
    "calls of the host": ("for name in ['/a', '/b'] * 50:\n    try: open(name)\n    except OSError: pass", ""),
    "a long program": ("x = 1\n" * 9000, "characters"),
    "no program": ("def f(:", "SyntaxError"),
}
HOSTILE = FILES | NETWORK | PROCESSES | IMPORTS | ESCAPES | MEMORY | TIME | DEPTH


def run(source, limits=LIMITS) -> Outcome:
    return asyncio.run(run_program(source, limits))


@pytest.fixture(scope="module")
def listener():
    """A port that counts who connects to it."""
    server, seen = socket.create_server(("127.0.0.1", 0)), []

    def accept():
        while True:
            try:
                seen.append(server.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], seen
    server.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_stays_in_and_ends_with_a_clear_error(name, tmp_path, listener, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_HOST", "host-7421")
    port, seen = listener
    bait = tmp_path / "bait"
    bait.write_text("still here")
    source, error = HOSTILE[name]
    began = time.monotonic()
    outcome = run(source.format(bait=bait, port=port) if "{" in source and name not in DEPTH else source)
    assert time.monotonic() - began < LATEST_S
    assert outcome.failed and error in outcome.error, outcome
    assert "\n" not in outcome.error and len(outcome.error) < 400
    assert bait.read_text() == "still here" and list(tmp_path.iterdir()) == [bait] and not seen
    assert "host-7421" not in str(outcome) and "root:" not in str(outcome)
    assert len(outcome.printed) <= LIMITS.output_chars


def test_there_are_at_least_forty_of_them():
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("print(6 * 7)", "42"),
        ("x = 6\nx * 7", "42"),
        ("from math import gcd\ndef solution():\n    return gcd(84, 126)\nprint(solution())", "42"),
        ("import re, json\njson.loads('[1, 2]')[1]", "2"),
        ("sorted({3, 1, 2})", "[1, 2, 3]"),
        ("x = 1", ""),
        ("print(1)\nNone", "1"),
        ("print('a')\n'b'", "b"),
    ],
)
def test_honest_programs_have_a_value(source, value):
    outcome = run(source)
    assert (outcome.value, outcome.error) == (value, "")


def test_a_program_leaves_nothing_to_the_next():
    assert run("secret = 5\nsecret").value == "5"
    assert "NameError" in run("secret").error


def test_a_result_that_cannot_be_written_out_is_an_error():
    assert "cannot be written out" in run("10 ** 5000").error or "digits" in run("10 ** 5000").error


def test_a_small_program_whose_value_is_endless_is_written_out_as_far_as_there_is_room():
    from components.reasoning.sandbox import _text

    value = [0]
    for _ in range(200):
        value = [value, value]
    assert len(_text(value, 4000)) == 4000
    for plain in ([1, "a", (2,), {"b": {3}}], (), [], {}, {1: [2.5]}, "text", None, date(2024, 5, 17)):
        assert _text(plain, 4000) == str(plain)


def test_cancelling_kills_the_process():
    def children() -> set[str]:
        task = Path(f"/proc/{os.getpid()}/task")
        return {pid for each in task.iterdir() for pid in (each / "children").read_text().split()}

    async def leave():
        before = children()
        program = asyncio.create_task(run_program("while True: pass", SandboxLimits(seconds=60)))
        while not children() - before:
            await asyncio.sleep(0.02)
        program.cancel()
        with pytest.raises(asyncio.CancelledError):
            await program
        for _ in range(250):
            if not children() - before:
                return True
            await asyncio.sleep(0.02)
        return False

    assert asyncio.run(leave())


def test_many_programs_run_at_the_same_time():
    async def all_of_them():
        return await asyncio.gather(*(run_program(f"print({n} ** 2)") for n in range(6)))

    assert [outcome.value for outcome in asyncio.run(all_of_them())] == ["0", "1", "4", "9", "16", "25"]

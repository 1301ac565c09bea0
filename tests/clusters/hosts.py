"""Hosts on one machine: network namespaces joined by a bridge, each with an sshd, a home and files of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_TOOLS = ("ip", "tc", "sshd", "ssh", "ssh-keygen", "rsync", "unshare", "nsenter", "mount")
_NET = "10.213.77"  # a private network of the test's own


@dataclass(frozen=True)
class Host:
    """A host: its address, the folder that is its home directory, and its sshd each time that it was started."""

    name: str
    address: str
    home: Path
    daemons: list[subprocess.Popen] = field(default_factory=list)


def what_is_missing() -> str | None:
    """Return why hosts cannot be made here, if they cannot."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install openssh-server rsync iproute2)"
    probe = subprocess.run(["ip", "netns", "add", "raylign-probe"], capture_output=True, text=True)
    if probe.returncode:
        return f"this machine allows no network namespaces: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", "raylign-probe"], check=False)
    return None


@contextlib.contextmanager
def hosts(folder: Path, count: int) -> Iterator[tuple[list[Host], Path]]:
    """Make ``count`` hosts; yield them and the private key that opens them. Nothing of them is left afterwards.

    A host has a home, /tmp, /run, /dev/shm and processes of its own (`ray stop` ends all that it sees); the rest of the
    file tree, Python and this project in it, is the machine's, so that ``folder`` must not be in one of these. The
    machine itself is on the network, as .254.
    """
    key = folder / "key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    tag = f"rl{os.getpid() % 10000}"
    bridge, made = f"{tag}br", []
    try:
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{_NET}.254/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for number in range(1, count + 1):
            host = Host(f"{tag}h{number}", f"{_NET}.{number}", folder / f"h{number}" / "root")
            made.append(host)
            _join(host, bridge)
            _furnish(host, key)
            start(host)
        yield made, key
    finally:
        for host in made:
            stop(host)
        for host in made:
            subprocess.run(["ip", "link", "del", f"{host.name}c"], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def processes(host: Host) -> list[int]:
    """Return the processes that run on a host."""
    found = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def cut_off(host: Host) -> None:
    """Take a host off the network."""
    _run("ip", "netns", "exec", host.name, "ip", "link", "set", "eth0", "down")


def put_back(host: Host) -> None:
    """Put a host that was cut off back on the network."""
    inside = ("ip", "netns", "exec", host.name, "ip")
    _run(*inside, "link", "set", "eth0", "up")
    _run(*inside, "route", "replace", "default", "via", f"{_NET}.254")


def slow(host: Host, rate: str | None) -> None:
    """Let a host send no more than ``rate`` (as tc writes it); none lifts that."""
    qdisc = ("ip", "netns", "exec", host.name, "tc", "qdisc")
    if rate is None:
        _run(*qdisc, "del", "dev", "eth0", "root")
    else:
        _run(*qdisc, "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")


def clock_library() -> Path | None:
    """Return the library that shifts the clock of the processes that load it, if it is installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def set_clock(host: Host, offset: str) -> None:
    """Let what is started on a host from now on see the time of day shifted ("+1h").

    Time that passes stays as it is, as on a host whose clock was set wrong.
    """
    page = host.home / ".bashrc"
    with page.open("a") as written:
        written.write(f"export LD_PRELOAD={clock_library()} DONT_FAKE_MONOTONIC=1 FAKETIME={offset}\n")


def stop(host: Host) -> None:
    """End every process of a host at once, as a power cut does."""
    for process in processes(host):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for daemon in host.daemons:
        daemon.wait(20)


def _join(host: Host, bridge: str) -> None:
    cable = f"{host.name}c"
    _run("ip", "netns", "add", host.name)
    _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _run("ip", "link", "set", cable, "master", bridge, "up")
    inside = ("ip", "netns", "exec", host.name)
    _run(*inside, "ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
    _run(*inside, "ip", "link", "set", "eth0", "up")
    _run(*inside, "ip", "link", "set", "lo", "up")
    _run(*inside, "ip", "route", "add", "default", "via", f"{_NET}.254")


def _furnish(host: Host, key: Path) -> None:
    """Write a host's own files."""
    folder = host.home.parent
    for name in ("root/.ssh", "tmp", "run", "shm", "etc"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "root" / ".ssh").chmod(0o700)
    shutil.copy(f"{key}.pub", folder / "root" / ".ssh" / "authorized_keys")
    (folder / "root" / ".ssh" / "authorized_keys").chmod(0o600)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "etc" / "host_key"))
    lines = Path("/etc/passwd").read_text().splitlines()
    own = f"root:x:0:0:root:{host.home}:/bin/bash"
    others = [line for line in lines if not line.startswith("root:")]
    (folder / "etc" / "passwd").write_text("\n".join([own, *others]) + "\n")
    (folder / "etc" / "sshd_config").write_text(
        f"Port 22\nListenAddress {host.address}\nHostKey {folder}/etc/host_key\nPidFile none\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nAcceptEnv *\n"
    )


def start(host: Host) -> None:
    """Start a host's sshd within namespaces of its own for the network, for mounts and for processes."""
    folder = host.home.parent
    steps = [
        f"mount --bind {folder}/etc/passwd /etc/passwd",
        f"mount --bind {folder}/shm /dev/shm",
        f"mount --bind {folder}/run /run",
        f"mount --bind {folder}/tmp /tmp",
        "mkdir -p /run/sshd",
        f"exec {shutil.which('sshd', path='/usr/sbin:/usr/bin:/sbin')} -D -e -f {folder}/etc/sshd_config",
    ]
    apart = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = ["ip", "netns", "exec", host.name, "unshare", *apart, "bash", "-c"]
    with (folder / "sshd.log").open("a") as log:
        host.daemons.append(
            subprocess.Popen([*command, " && ".join(steps)], stdout=log, stderr=log, start_new_session=True)
        )


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

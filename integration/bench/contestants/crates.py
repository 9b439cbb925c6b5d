"""Peers from the crate registry, installed with cargo into a cache of their own. Building one takes minutes."""

import os
import re
import shutil
import signal
import subprocess
import time

from results import say

HERE = os.path.dirname(os.path.abspath(__file__))
# Crate: version, program. Versions are fixed so that figures of two runs are about the same peers.
VERSIONS = {"boringtun-cli": ("0.7.1", "boringtun-cli"), "gotatun-cli": ("0.10.2", "gotatun"), "vpncloud": ("2.3.0", "vpncloud")}
LONGEST = 1200
TOLD_EVERY = 15


def folder():
    cache = os.environ.get("WATTLE_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "wattle")
    return os.path.join(cache, "peers")


def program(name):
    """Path of a program that was installed here or lies on the PATH; None otherwise."""
    path = os.path.join(folder(), "bin", name)
    return path if os.path.exists(path) else shutil.which(name)


def missing(crate):
    version, name = VERSIONS[crate]
    return None if program(name) else f"{crate} {version} is not installed; --all-peers or --peers builds it"


def install(crate):
    """Builds one crate; returns why it could not be, or None."""
    version, name = VERSIONS[crate]
    if program(name):
        return None
    if not shutil.which("cargo"):
        return "there is no cargo to build it with"
    say(f"building {crate} {version} into {folder()}, at most {LONGEST // 60} minutes")
    os.makedirs(folder(), exist_ok=True)
    log = os.path.join(folder(), f"{crate}.log")
    target = os.path.join(folder(), "target")
    with open(log, "w") as out:
        command = ["cargo", "install", "--locked", "--root", folder(), "--version", version, crate]
        # From here, so that the toolchain is the one that this project names.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=HERE,
                                   env={**os.environ, "CARGO_TARGET_DIR": target}, start_new_session=True)
    try:
        reason = wait(process, crate, log)
    finally:
        if process.poll() is None:
            # The group: compilers outlive a cargo that is killed.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    shutil.rmtree(target, ignore_errors=True)
    return reason


def wait(process, crate, log):
    begun = told = time.monotonic()
    while process.poll() is None:
        time.sleep(0.5)
        now = time.monotonic()
        if now - begun > LONGEST:
            return f"building it took more than {LONGEST // 60} minutes"
        if now - told > TOLD_EVERY:
            told = now
            say(f"  {crate}: {compiled(log)} crates compiled, {now - begun:.0f} s")
    if process.returncode:
        with open(log, errors="replace") as lines:
            tail = "".join(lines.readlines()[-15:])
        say(tail.rstrip())
        return f"cargo install ended with {process.returncode}, its log is {log}"
    return None


def compiled(log):
    with open(log, errors="replace") as lines:
        return sum(bool(re.match(r"\s*Compiling ", line)) for line in lines)

"""Programs that measure by themselves and end with one line of JSON; their progress goes on to stderr."""

import json
import os
import subprocess

from lab.net import LabError


def answer(name, *arguments):
    path = os.path.join(os.environ["WATTLE_BIN_DIR"], name)
    ended = subprocess.run([path, *map(str, arguments)], stdout=subprocess.PIPE, check=False)
    if ended.returncode:
        raise LabError(f"{name} ended with {ended.returncode}, its reason is above")
    return json.loads(ended.stdout.splitlines()[-1])

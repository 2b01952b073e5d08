"""One Python that has loaded torch, scikit-learn, pandas and matplotlib, and forks for each script: it begins at once.

A script finds what it would find in a Python of its own: its arguments, a `__main__` of its own and its folder on the
path. Only modules are loaded already.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
from pathlib import Path

_TIMEOUT = 600  # seconds for a script


class ForkingPython:
    """A context in which `run` does what `subprocess.run([sys.executable, *arguments])` does.

    Parameters
    ----------
    **environment : str
        Environment variables of all scripts, beside those of this process.
    """

    def __init__(self, **environment):
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = os.environ | {"PYTHONPATH": path} | environment

    def __enter__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen([sys.executable, __file__], env=self.environment, **pipes)
        return self

    def __exit__(self, *error):
        self.server.communicate()  # the end of its input ends it

    def run(self, arguments, folder):
        """Exit code, and what was printed to both streams, of ``-c code ...`` or ``script.py ...`` in a folder."""
        with tempfile.NamedTemporaryFile("r") as output:
            request = {"arguments": arguments, "folder": str(folder), "output": output.name}
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            answer = self.server.stdout.readline()
            assert answer, "the Python that forks has ended"
            return int(answer), output.read()


def serve():
    """Fork for each line of the input, and tell the exit code; the children return with their request."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def perform(arguments, folder, output):
    """Become the Python that was asked for."""
    signal.alarm(_TIMEOUT)
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY), (2, output, os.O_WRONLY)):
        os.dup2(os.open(path, flags | os.O_APPEND), stream)
    os.chdir(folder)
    if arguments[0] == "-c":
        _, code, *rest = arguments
        sys.argv, sys.path[0] = ["-c", *rest], ""
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(code, vars(sys.modules["__main__"]))
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.mixture  # noqa: F401
    import torch  # noqa: F401

    import skvae.displays  # noqa: F401

    perform(**serve())

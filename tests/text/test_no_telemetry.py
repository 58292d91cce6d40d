"""Nothing leaves the machine because an engine was imported."""

import subprocess
import sys

SCRIPT = """
import socket, os
def refuse(*_, **__): raise SystemExit("a connection was tried")
def no_fork(): raise SystemExit("a process was forked")
socket.socket.connect = refuse
os.fork = no_fork
import sys
import reclm.llm.engines.openvino
assert "openvino_telemetry" not in sys.modules, "the package stays importable for others"
import openvino.tools.ovc.telemetry_utils as telemetry
print(telemetry.tm.__name__)
"""


def test_importing_the_openvino_engine_reports_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"

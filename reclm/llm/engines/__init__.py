"""Engines that run a language model on this machine, or ask a server."""

import sys

# Importing openvino reports to its makers, from a forked process, where the package that does so is installed. Made
# unimportable before any engine is imported, it is replaced by openvino's own stub, and nothing leaves the machine.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

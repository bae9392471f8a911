"""How the tests call edge-logs."""

from __future__ import annotations

from deploy.quickstart.services import SCRIPTS
from deploy.quickstart.stack import Stack


def edge_logs_command(stack: Stack, *arguments: str) -> list[str]:
    """Return the command line for the stack's operator."""
    own = [str(SCRIPTS / "edge-logs"), "--bridge", stack.bridge_url, "--certs", str(stack.operator_certs)]
    return [*own, *arguments]

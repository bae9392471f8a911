"""How a supervisor's calls to its worker look: what both ends must agree on, across versions too."""

from __future__ import annotations

from typing import Final

#: The path below which the client puts every call.
ROOT: Final = "/execution/"
#: What the client believes the Execution API's address to be; the socket decides where calls go.
BASE_URL: Final = f"http://edge-worker{ROOT}"
#: Names a call, whichever connection it comes on.
REQUEST_ID_HEADER: Final = "x-request-id"
#: There when a call was made before, and its connection broke before it was answered.
REPEATED_HEADER: Final = "x-request-repeated"
#: Where a supervisor asks its worker for the permission to start a workload that makes no ``run`` call.
START_TARGET: Final = "edge-mqtt/start"

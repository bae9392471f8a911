"""How long a transport waits for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds in the life of a connection."""

    #: For each of: reaching the host, the TLS handshake, the WebSocket handshake.
    connect_s: float = 10.0
    #: For the broker to acknowledge the connection and the subscriptions. It may first have to take an old connection
    #: of ours down.
    acknowledge_s: float = 15.0
    #: For saying goodbye.
    goodbye_s: float = 2.0
    #: That ``stop`` waits for the transport's thread, which may be looking up a host name.
    stop_s: float = 5.0
    #: Between attempts at most while our name is in use: the old connection may be noticed as dead any moment.
    name_in_use_wait_s: float = 5.0
    #: That the first wait takes at most. Spreads the return of two thousand workers after a short outage, and lets
    #: each of them be back after one second on average.
    first_wait_s: float = 2.0
    #: That any wait takes at most: a site that comes back is not kept out for longer than this.
    longest_wait_s: float = 60.0
    #: Of service after which a connection counts as sound, and the next wait is a first one again. Shorter ones do
    #: not: two programs that keep throwing each other out would do so in a tight loop.
    sound_after_s: float = 5.0
    #: Of silence below which no proxy or balancer ends a connection: an end then has other reasons.
    shortest_idle_limit_s: float = 5.0

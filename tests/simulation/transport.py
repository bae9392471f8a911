"""A program's transport over the simulated network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from edge_mqtt.broker_bridge.protocol.codec import encode
from edge_mqtt.broker_bridge.transport.interface import PacketReceiver, Will
from tests.simulation.clock import Killed, Life
from tests.simulation.network import Testament, Wire


class SimulatedTransport:
    """A program's transport: fills the port that the real one fills.

    :param step: called before every packet; where the program may die.
    """

    def __init__(
        self,
        wire: Wire,
        life: Life,
        incarnation: str,
        *,
        step: Callable[[], None],
        will: Callable[[int], Will | None] = lambda _: None,
    ) -> None:
        self.life = life
        self._wire = wire
        self._incarnation = incarnation
        self._step = step
        self._will = will
        self._receiver: PacketReceiver | None = None

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""
        return self._wire.connection

    def start(self, receiver: PacketReceiver) -> None:
        """Begin connecting."""
        self._receiver = receiver
        self._wire.start(self, self._incarnation)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Send one packet."""
        self._step()
        return self._wire.send(topic, payload)

    def publish_large(self, topic: str, fragments: Sequence[bytes], *, errand: Hashable) -> bool:
        """Send fragments."""
        return all(self.publish(topic, fragment, qos=1) for fragment in fragments)

    @property
    def is_busy(self) -> bool:
        """Nothing waits here."""
        return False

    def stop(self) -> None:
        """Say goodbye."""
        if not self.life.alive:
            raise Killed
        self._wire.stop(goodbye=True)

    # ------------------------------------------------------------ Client

    def connected(self) -> None:
        """Pass on."""
        assert self._receiver is not None
        self._receiver.connected()

    def disconnected(self) -> None:
        """Pass on."""
        assert self._receiver is not None
        self._receiver.disconnected("the connection is gone")

    def received(self, topic: str, payload: bytes) -> None:
        """Pass on."""
        assert self._receiver is not None
        self._receiver.received(topic, payload)

    def will(self, connection: int) -> Testament | None:
        """Return the packet of the last will."""
        will = self._will(connection)
        return None if will is None else (will.topic, encode(will.message)[0])

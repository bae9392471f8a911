"""What each kind of value takes, and how it says what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.program.settings.kinds import (
    Choice,
    Folder,
    Kind,
    Mode,
    Names,
    NotAllowed,
    Number,
    NumberByName,
    Text,
    Url,
    WholeNumber,
)

SECONDS = Number(least=0.5, most=10, unit="seconds")
PORT = WholeNumber(least=0, most=65535)
GRACES = NumberByName(number=Number(least=1, unit="seconds"), what="queue")
WSS = Url(schemes=("wss",), example="wss://HOST/mqtt")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Text(), "", ""),
        (Text(pattern="[a-z]+", allowed="small letters"), "abc", "abc"),
        (Choice(words=("text", "json")), " JSON", "json"),
        (Folder(), "~/certs", Path("~/certs").expanduser()),
        (SECONDS, "0.5", 0.5),
        (SECONDS, " 1e1 ", 10.0),
        (PORT, "443", 443),
        (PORT, "443.0", 443),
        (Mode(), "0o640", 0o640),
        (Mode(), "0755", 0o755),
        (Mode(), "600", 0o600),
        (Names(), " a, b,a ,, ", ("a", "b")),
        (Names(), "", ()),
        (Names(least=1), "007", ("007",)),
        (GRACES, "", {}),
        (GRACES, " ship=7200, a=b =60 ,", {"ship": 7200.0, "a=b": 60.0}),
        (WSS, "wss://bridge.example.com", "wss://bridge.example.com"),
        (WSS, "wss://[::1]:8443/mqtt", "wss://[::1]:8443/mqtt"),
    ],
)
def test_text_becomes_a_value(kind: Kind[Any], text: str, value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (Text(pattern="[a-z]+", allowed="small letters"), "abC", "it must be small letters"),
        (Text(pattern="[a-z]+", allowed="small letters"), "abc\n", "it must be small letters"),
        (Choice(words=("text", "json")), "xml", "it must be text or json"),
        (Folder(), "", "it must be the path of a folder"),
        (SECONDS, "0.4", "it must be a number of seconds from 0.5 to 10"),
        (SECONDS, "11", "it must be a number of seconds from 0.5 to 10"),
        (SECONDS, "nan", "it must be a number of seconds from 0.5 to 10"),
        (SECONDS, "soon", "it must be a number of seconds from 0.5 to 10"),
        (Number(least=0), "inf", "it must be a number, at least 0"),
        (PORT, "65536", "it must be a whole number from 0 to 65535"),
        (PORT, "-1", "it must be a whole number from 0 to 65535"),
        (PORT, "1.5", "it must be a whole number from 0 to 65535"),
        (PORT, "1e99", "it must be a whole number from 0 to 65535"),
        (PORT, "web", "it must be a whole number from 0 to 65535"),
        (Mode(), "rw-r--r--", "it must be an octal number such as 0o640"),
        (Mode(), "0o89", "it must be an octal number such as 0o640"),
        (Mode(), "-1", "it must be an octal number such as 0o640"),
        (Mode(), "0o10000", "it must be an octal number such as 0o640"),
        (Names(least=1), " , ", "it must be one or more names, separated by commas"),
        (GRACES, "ship", "'ship' is not"),
        (GRACES, "=60", "'=60' is not"),
        (GRACES, "ship=soon", "'ship=soon' is not"),
        (GRACES, "ship=nan", "'ship=nan' is not"),
        (GRACES, "ship=0.5", "queue=seconds, separated by commas, each a number of seconds, at least 1"),
        (GRACES, "ship=60, ship=70", "it names queue 'ship' twice"),
        (WSS, "https://bridge/mqtt", "it must be of the form wss://HOST/mqtt"),
        (WSS, "wss:///mqtt", "it must be of the form wss://HOST/mqtt"),
        (WSS, "wss://bridge:port/mqtt", "it must be of the form wss://HOST/mqtt"),
        (WSS, "wss://bridge:70000/mqtt", "it must be of the form wss://HOST/mqtt"),
        (WSS, "wss://bridge:0/mqtt", "it must be of the form wss://HOST/mqtt"),
        (WSS, "wss://[bridge/mqtt", "it must be of the form wss://HOST/mqtt"),
    ],
)
def test_other_text_is_refused_with_what_is_allowed(kind: Kind[Any], text: str, says: str) -> None:
    with pytest.raises(NotAllowed) as refusal:
        kind.parse(text)
    assert says in str(refusal.value)

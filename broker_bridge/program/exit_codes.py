"""How our programs and commands end, in one list: a number means the same whichever of them it comes from."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a program tells the shell or the service manager that started it."""

    #: All went well: the worker's and the bridge's orderly end, a command's success.
    DONE = 0
    #: Something failed: a part of the program, the run that was followed, tasks that were stopped at the end.
    FAILED = 1
    #: The command line, a setting, a certificate or a folder cannot be used. Starting again changes nothing.
    USAGE = 2
    #: The other side does not accept the certificate, or is not accepted.
    REFUSED = 3
    #: Another program is connected with the same name.
    NAME_IN_USE = 4
    #: The other side speaks another version of the protocol.
    PROTOCOL_VERSION = 5
    #: The bridge does not answer, and the command does not wait any longer.
    UNREACHABLE = 6
    #: As a shell reports a program that SIGINT has ended.
    INTERRUPTED = 130
    #: As a shell reports a program that SIGPIPE has ended.
    BROKEN_PIPE = 141

"""The root of all errors that end a program or a command with one line.

ProgramError
├── FileUnusable       (``private_files``) a file or folder cannot be read or written
├── SettingError       (``settings``) a setting or an option is missing or wrong
├── BridgeError        the bridge cannot start
├── WorkerError        the worker cannot start
├── ExecutorError      the executor cannot connect
├── CertificateError   a key or certificate cannot be made or used
└── UsageError         ``edge-logs`` was asked for what it cannot do
"""

from __future__ import annotations


class ProgramError(Exception):
    """Something that people have to put right. The text is one line that says what is wrong and what to do."""

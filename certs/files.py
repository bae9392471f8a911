"""Reading and writing keys and certificates: whole files or nothing, readable by their owner only."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_mqtt.certs.errors import CertificateError, FileUnusable

#: Mode of every file we write: a key is its owner's alone, and certificates travel with it.
FILE_MODE = 0o600
#: Mode of every folder we make.
DIRECTORY_MODE = 0o700


def read_bytes(path: Path) -> bytes:
    """Return what ``path`` holds.

    :raises FileUnusable: it is not there or cannot be read.
    """
    with reading(path):
        return path.read_bytes()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line why something at ``path``, or even whether it is a folder, cannot be read.

    :raises FileUnusable: it is not there or cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileUnusable(f"{path} does not exist: name the folder that edge-certs made for this party") from None
    except PermissionError:
        raise FileUnusable(
            f"{path} cannot be read by this user: give it to the user that runs this program"
        ) from None
    except OSError as error:
        raise FileUnusable(f"{path} cannot be read: {error.strerror}") from error


def is_there(path: Path) -> bool:
    """Tell whether there is something at ``path``.

    Unlike ``Path.exists``, which from Python 3.14 on is False as well when the path cannot be looked at.

    :raises OSError: it cannot be looked at.
    """
    return _mode(path) is not None


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder at ``path``; see :func:`is_there`.

    :raises OSError: it cannot be looked at.
    """
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the PEM certificates in ``path``, at least one.

    :raises FileUnusable: there is none.
    """
    try:
        return x509.load_pem_x509_certificates(read_bytes(path))
    except ValueError:
        raise FileUnusable(f"{path} is not a PEM certificate: copy or issue it again") from None


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the EC key in ``path``.

    :raises FileUnusable: it is not an unencrypted PEM key on an elliptic curve.
    """
    try:
        key = serialization.load_pem_private_key(read_bytes(path), password=None)
    except TypeError:
        raise FileUnusable(f"{path} is encrypted: a service cannot ask for a passphrase, issue it again") from None
    except ValueError:
        raise FileUnusable(f"{path} is not a PEM private key: copy or issue it again") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FileUnusable(f"{path} is not an elliptic-curve key: use one made by edge-certs")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return ``key`` as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return ``certificate`` as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def make_private_directory(path: Path) -> None:
    """Make ``path`` and the folders above it that are missing, for their owner only.

    :raises FileUnusable: that cannot be done.
    """
    with writing(path):
        missing = [folder for folder in (path, *path.parents) if not is_there(folder)]
        for folder in reversed(missing):
            folder.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        if not is_folder(path):
            raise FileUnusable(f"{path} is a file, not a folder: choose another --dir")


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write all of ``contents``: each file is replaced as a whole, after every one is safe on the disk.

    :raises FileUnusable: one cannot be written; then no file has changed, unless it failed in the last step.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            with writing(path):
                temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
                staged[temporary] = path
                _write_new(temporary, content)
        for temporary, path in list(staged.items()):
            with writing(path):
                temporary.replace(path)
            del staged[temporary]
        for folder in {path.parent for path in contents}:
            sync_directory(folder)
    finally:
        for temporary in staged:
            temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Put the names in folder ``path`` on the disk, so that a rename survives a power cut."""
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, so that two commands on one folder go one after the other.

    :raises FileUnusable: it cannot be made.
    """
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while ``path`` is written into one line.

    :raises FileUnusable: there was one.
    """
    try:
        yield
    except CertificateError:
        raise
    except OSError as error:
        raise FileUnusable(f"{path} cannot be written: {error.strerror}") from error


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

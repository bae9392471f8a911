"""Keys and certificates as PEM files."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_mqtt.broker_bridge.program.private_files import FileUnusable, read_bytes

#: What to do when a file of a certificate's folder is missing.
IF_MISSING = "name the folder that edge-certs made"


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the PEM certificates in ``path``, at least one.

    :raises FileUnusable: there is none.
    """
    try:
        return x509.load_pem_x509_certificates(read_bytes(path, if_missing=IF_MISSING))
    except ValueError:
        raise FileUnusable(f"{path} is not a PEM certificate: copy or issue it again") from None


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the EC key in ``path``.

    :raises FileUnusable: it is not an unencrypted PEM key on an elliptic curve.
    """
    try:
        key = serialization.load_pem_private_key(read_bytes(path, if_missing=IF_MISSING), password=None)
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

"""Certificates of a made-up authority, as files and as grpc's credentials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

SERVER_NAMES = ("localhost", "gloss.test")


@dataclass(frozen=True)
class Certificates:
    """Files of a made-up authority.

    Attributes:
        authority: signs all of them but `other_ca`.
        ca, other_ca: authorities; nothing here is signed by the other.
        cert, key: a client's, whose common name is `alice`.
        server_cert, server_key: the server's own, for localhost and gloss.test.
    """

    authority: trustme.CA
    ca: Path
    other_ca: Path
    cert: Path
    key: Path
    server_cert: Path
    server_key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """New ones in a folder."""
        made = cls(
            trustme.CA(),
            *(
                folder / name
                for name in (
                    *("ca.pem", "other.pem", "cert.pem", "key.pem"),
                    *("server.pem", "server-key.pem"),
                )
            ),
        )
        made.authority.cert_pem.write_to_path(made.ca)
        trustme.CA().cert_pem.write_to_path(made.other_ca)
        client = made.authority.issue_cert("client.test", common_name="alice")
        write(client, made.cert, made.key)
        write(made.authority.issue_cert(*SERVER_NAMES), made.server_cert, made.server_key)
        return made

    def server_credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        """With `mutual`, clients must show a certificate of the authority."""
        return grpc.ssl_server_credentials(
            [(self.server_key.read_bytes(), self.server_cert.read_bytes())],
            root_certificates=self.ca.read_bytes() if mutual else None,
            require_client_auth=mutual,
        )

    def channel_credentials(self, *, mutual: bool = False) -> grpc.ChannelCredentials:
        """Of a client that trusts the authority; with `mutual` it shows its own certificate."""
        return grpc.ssl_channel_credentials(
            self.ca.read_bytes(),
            self.key.read_bytes() if mutual else None,
            self.cert.read_bytes() if mutual else None,
        )


def write(leaf: trustme.LeafCert, cert: Path, key: Path) -> None:
    """A certificate and its key, as an operator replaces them: in one step each, the key unread by
    others."""
    for path, content in (
        (cert, b"".join(pem.bytes() for pem in leaf.cert_chain_pems)),
        (key, leaf.private_key_pem.bytes()),
    ):
        replacement = path.with_suffix(".new")
        replacement.touch(mode=0o600)
        replacement.write_bytes(content)
        replacement.rename(path)

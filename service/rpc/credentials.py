"""gRPC's credentials of certificates that may change."""

import grpc

from service.tls.files import TlsMaterial
from service.tls.reloading import Certificates


def credentials_of(certificates: Certificates) -> grpc.ServerCredentials:
    """For one port: each handshake is served with what is current then."""
    taken = certificates.current

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """On a thread of gRPC's, at each handshake."""
        nonlocal taken
        current = certificates.current
        if current is taken:
            return None  # nothing has changed
        taken = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(taken),
        fetch,  # type: ignore[arg-type]  # None says that nothing has changed
        require_client_authentication=taken.client_ca is not None,
    )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.chain)], root_certificates=material.client_ca
    )

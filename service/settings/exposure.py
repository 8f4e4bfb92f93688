"""What can be reached from elsewhere than this machine, and is not protected."""

from collections.abc import Iterator

from service.endpoint import Endpoint
from service.settings.fields import Settings


def exposures(settings: Settings) -> Iterator[str]:
    """A line for each way in which whoever reaches a server may do more than its owner means."""
    reachable = [
        host
        for host, port in ((settings.host, 0), (settings.metrics_host, settings.metrics_port))
        if host is not None and port is not None and not Endpoint(host, 0).is_loopback
    ]
    if not reachable:
        return
    where = " and ".join(dict.fromkeys(reachable))
    if settings.tokens is None:
        may = "use and end every session" if settings.host in reachable else "read the metrics"
        yield (
            f"{where} can be reached from other machines, and whoever does may {may}: name a file "
            "of tokens with --tokens, or listen on loopback or a unix: socket"
        )
    elif settings.tls_cert is None:
        yield (
            f"{where} can be reached from other machines, and tokens are sent as plain text: give "
            "the server a certificate with --tls-cert and --tls-key, or let only a proxy that "
            "has one reach it"
        )

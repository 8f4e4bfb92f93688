"""Further options of gRPC's channel: gRPC itself says nothing of one that it does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from cellar.errors import BadInputError
from cellar.values.arguments import refused

_KNOWN = """
absolute_max_metadata_size client_idle_timeout_ms compression_enabled_algorithms_bitset
default_authority default_compression_algorithm default_compression_level
disable_client_authority_filter dns_ares_query_timeout dns_enable_srv_queries
dns_min_time_between_resolutions_ms dscp enable_channelz enable_http_proxy enable_retries
happy_eyeballs_connection_attempt_delay_ms http2.bdp_probe http2.hpack_table_size.decoder
http2.hpack_table_size.encoder http2.lookahead_bytes http2.max_frame_size http2.max_ping_strikes
http2.max_pings_without_data http2.ping_timeout_ms http2.settings_timeout http2.true_binary
http2.write_buffer_size http2_scheme http_connect_headers http_connect_server http_proxy
inhibit_health_checking initial_reconnect_backoff_ms keepalive_permit_without_calls
keepalive_time_ms keepalive_timeout_ms lb_policy_name max_channel_trace_event_memory_per_node
max_concurrent_streams max_connection_age_grace_ms max_connection_age_ms max_connection_idle_ms
max_metadata_size max_receive_message_length max_reconnect_backoff_ms max_send_message_length
min_reconnect_backoff_ms minimal_stack optimization_target per_message_compression
per_message_decompression per_rpc_retry_buffer_size primary_user_agent secondary_user_agent
service_config service_config_disable_resolution so_reuseport ssl_target_name_override
tcp_receive_buffer_size use_local_subchannel_pool
"""
KNOWN = tuple(f"grpc.{name}" for name in _KNOWN.split())
"""Those of a client's channel, of gRPC 1.85. Another is passed on, unless it is nearly one of these
and must be misspelt."""
_NEARLY = 0.85


def checked(options: object) -> list[tuple[str, Any]]:
    """The options, as pairs.

    Raises:
        BadInputError: they are no pairs of a name and a value, or a name is misspelt.
    """
    if isinstance(options, Mapping):
        options = list(options.items())
    if not isinstance(options, Sequence) or isinstance(options, str | bytes):
        raise refused("options", "pairs of a name and a value", options)
    found: list[tuple[str, Any]] = []
    for place, option in enumerate(options):
        if not isinstance(option, Sequence) or isinstance(option, str) or len(option) != 2:
            raise refused(f"options[{place}]", "a pair of a name and a value", option)
        name, value = option
        if not isinstance(name, str):
            raise refused(f"options[{place}]", "a pair that begins with a name", option)
        _check_name(name)
        if value is None or isinstance(value, float | list | dict | tuple):
            raise refused(name, "a whole number or a string", value)
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            raise refused(name, "a whole number of 32 bits", value)
        found.append((name, value))
    return found


def _check_name(name: str) -> None:
    if name in KNOWN:
        return
    wanted = name if name.startswith("grpc.") else f"grpc.{name}"
    nearly = get_close_matches(wanted, KNOWN, n=1, cutoff=_NEARLY)
    if nearly:
        raise BadInputError(
            f"options: gRPC has no {name}; did you mean {nearly[0]}?", metadata={"field": "options"}
        )

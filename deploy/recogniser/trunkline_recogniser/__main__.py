"""The command line: `python -m trunkline_recogniser --listen 127.0.0.1:0`."""

import argparse
import ipaddress
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import grpc

from .server import Recogniser, WorkerFailed


def main():
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    options = _options()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        credentials = _credentials(options)
        recogniser = Recogniser(options.max_calls, options.idle_timeout)
        port = recogniser.start(options.listen, credentials)
    except (OSError, ValueError, WorkerFailed) as error:
        print(f"recogniser: {error}", file=sys.stderr)
        return 1
    host = options.listen.rpartition(":")[0]
    print(f"listening on {host}:{port}", flush=True)
    stop.wait()
    logging.getLogger("recogniser").info("stopping")
    recogniser.stop(options.grace)
    return 0


def _options():
    parser = argparse.ArgumentParser(
        prog="recogniser", description="Reference recogniser for trunkline.transcription.v1 (offline, English).")
    parser.add_argument("--listen", default="127.0.0.1:7070", metavar="HOST:PORT",
                        help="address; port 0 takes a free one. When ready, one line 'listening on HOST:PORT' is printed")
    parser.add_argument("--max-calls", type=_count, default=2 * (os.cpu_count() or 1), metavar="N",
                        help="calls at a time, each about 250 MB and a quarter of a core while somebody speaks; "
                             "more are refused with RESOURCE_EXHAUSTED (default: two for each core)")
    parser.add_argument("--idle-timeout", type=_seconds, default=120.0, metavar="S",
                        help="a stream on which nothing comes for S seconds is ended (default: 120)")
    parser.add_argument("--grace", type=_seconds, default=10.0, metavar="S",
                        help="after SIGTERM, time to settle what is being heard (default: 10)")
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="private key (PEM)")
    parser.add_argument("--tls-client-ca", metavar="FILE", help="demand client certificates by this CA (PEM)")
    return parser.parse_args()


def _count(text):
    value = int(text)
    if not 1 <= value <= 256:
        raise argparse.ArgumentTypeError(f"{value}: give 1 to 256")
    return value


def _seconds(text):
    value = float(text)
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{value}: give 0.1 to 86400 seconds")
    return value


def _credentials(options):
    """TLS credentials, or None on loopback. Raises ValueError with the remedy."""
    host, colon, port = options.listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"--listen {options.listen}: give HOST:PORT, for instance 127.0.0.1:7070")
    if bool(options.tls_cert) != bool(options.tls_key):
        raise ValueError("--tls-cert and --tls-key belong together: give both")
    if options.tls_cert:
        ca = Path(options.tls_client_ca).read_bytes() if options.tls_client_ca else None
        pair = (Path(options.tls_key).read_bytes(), Path(options.tls_cert).read_bytes())
        return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)
    if options.tls_client_ca:
        raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"--listen {host} is not loopback, and calls are private: give --tls-cert and --tls-key")
    return None


if __name__ == "__main__":
    sys.exit(main())

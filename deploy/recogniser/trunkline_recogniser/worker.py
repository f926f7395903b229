"""The process behind one call: reads requests from a pipe, decodes, answers.

The pipe carries byte strings whose first byte is a tag. To the worker: M request,
F finish now (half-close or stop), X forget the call, Q leave. From the worker: R response,
E end of the call as "STATUS\\ntext" (always the last of a call), D idle again after X.
The pipe's buffer is all that waits between server and decoder, so a busy decoder
slows its own sender down and nobody else.
"""

import signal

from google.protobuf.message import DecodeError
from trunkline.transcription.v1 import transcription_pb2 as pb

from .decoder import Decoder
from .session import Refused, Session

# Decoders for an ordinary call's two channels are kept between calls; more go.
_KEPT_DECODERS = 2


def run(connection, skip):
    """The process's main; leaves when the pipe closes, that is, with its server.

    While the shared flag `skip` is set, what waits in the pipe is read and dropped.
    """
    # The server decides when this ends, also when a signal goes to the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        decoders = [Decoder() for _ in range(_KEPT_DECODERS)]
        connection.send_bytes(b"D")
        while _serve(connection, decoders, skip):
            del decoders[_KEPT_DECODERS:]
    except (EOFError, OSError):
        return


def _serve(connection, decoders, skip):
    """One call. False when the process shall leave."""

    def lend(count):
        while len(decoders) < count:
            decoders.append(Decoder())
        return decoders[:count]

    session = Session(lend)
    ended = False
    while True:
        message = connection.recv_bytes()
        tag, body = message[:1], message[1:]
        if tag == b"Q":
            return False
        if tag == b"X":
            connection.send_bytes(b"D")
            return True
        if ended or skip.value:
            continue
        status = _answer(connection, session, tag, body)
        if status:
            ended = True
            connection.send_bytes(b"E" + status.encode("utf-8", "replace")[:2000])


def _answer(connection, session, tag, body):
    """Handles one message; the call's end as "STATUS\\ntext", or None."""
    try:
        if tag == b"F":
            responses = session.finish()
        else:
            responses = session.handle(pb.TranscribeRequest.FromString(body))
        for response in responses:
            connection.send_bytes(b"R" + response.SerializeToString())
    except Refused as refusal:
        return f"{refusal.status}\n{refusal}"
    except DecodeError:
        return "INVALID_ARGUMENT\na message is not a TranscribeRequest"
    return "OK\n" if tag == b"F" or session.ended else None

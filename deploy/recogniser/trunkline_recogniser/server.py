"""The gRPC side: one handler thread and one worker process for each call."""

import logging
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from . import worker

SERVICE = "trunkline.transcription.v1.Transcription"
# Eight channels of one second at 16 kHz make 256 kB; nothing larger is legitimate.
MAX_MESSAGE_BYTES = 512 * 1024
_START_TIMEOUT_S = 30.0
_RESET_TIMEOUT_S = 10.0
# A worker that owes an answer and gives none for this long is stuck.
_ANSWER_TIMEOUT_S = 60.0
_POLL_S = 0.25
# Handler threads beyond the calls, so that a refused call is told so at once.
_SPARE_THREADS = 8

log = logging.getLogger("recogniser")


class WorkerFailed(Exception):
    """A worker process did not start, or died, or no longer answers."""


class _Worker:
    """A worker process and the server's end of its pipe."""

    def __init__(self, context):
        self.connection, theirs = context.Pipe()
        # While set, the worker skips what still waits in its pipe.
        self._skip = context.RawValue("b", 0)
        self.process = context.Process(target=worker.run, args=(theirs, self._skip), daemon=True)
        self.process.start()
        theirs.close()
        self._sending = threading.Lock()
        # The call being served. A thread that still relays for an earlier one is ignored.
        self._owner = None
        self._expect_idle(_START_TIMEOUT_S)

    def serve(self, call):
        """From now on messages of `call` are taken, and no other's."""
        self._owner = call

    def send(self, call, tag, body=b""):
        """Gives the worker a message; waits while the pipe is full. OSError when it is gone."""
        with self._sending:
            if call is self._owner:
                self.connection.send_bytes(tag + body)

    def reset(self):
        """Makes it forget its call; raises WorkerFailed when it does not."""
        self._skip.value = 1
        # In its own thread: the worker may itself wait for room in its pipe, which
        # only appears when we read.
        threading.Thread(target=self._forget, daemon=True).start()
        self._expect_idle(_RESET_TIMEOUT_S)
        self._skip.value = 0

    def _forget(self):
        try:
            with self._sending:
                self._owner = None
                self.connection.send_bytes(b"X")
        except (OSError, ValueError):
            pass  # The worker is gone: who waits for its answer sees that.

    def leave(self):
        """Asks an idle worker to leave, and sees to it that it does."""
        try:
            self.send(self._owner, b"Q")
        except (OSError, ValueError):
            pass  # Already gone, which is what is wanted.
        self.close()

    def _expect_idle(self, timeout_s):
        deadline = time.monotonic() + timeout_s
        try:
            while self.connection.poll(max(0.0, deadline - time.monotonic())):
                if self.connection.recv_bytes()[:1] == b"D":
                    return
        except (EOFError, OSError) as error:
            self.close()
            raise WorkerFailed("the worker process ended: see its message above") from error
        self.close()
        raise WorkerFailed(f"the worker process did not answer within {timeout_s:.0f} s")

    def close(self):
        """Ends the process, by force when it does not leave."""
        self.connection.close()
        self.process.join(0.2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(2.0)


class Pool:
    """At most `size` workers; made when needed, kept when idle."""

    def __init__(self, size):
        self.size = size
        self._context = multiprocessing.get_context("spawn")
        self._lock = threading.Lock()
        self._idle = []
        self._all = []
        self._busy = 0

    def warm(self):
        """Makes one worker, so that a missing model shows at the start."""
        self._idle.append(self._make())

    def _make(self):
        made = _Worker(self._context)
        with self._lock:
            self._all.append(made)
        return made

    def take(self):
        """A worker for a call, or None when all are busy."""
        with self._lock:
            if self._busy >= self.size:
                return None
            self._busy += 1
            if self._idle:
                return self._idle.pop()
        try:
            return self._make()
        except BaseException:
            with self._lock:
                self._busy -= 1
            raise

    def give_back(self, used):
        """After a call; a worker that does not come to rest is replaced later."""
        try:
            used.reset()
            usable = True
        except WorkerFailed as failure:
            log.warning("worker discarded: %s", failure)
            usable = False
            used.close()
        with self._lock:
            self._busy -= 1
            if usable:
                self._idle.append(used)
            elif used in self._all:
                self._all.remove(used)

    def close(self):
        """Ends all workers; nothing is served after it."""
        with self._lock:
            idle, everyone = self._idle, self._all
            self._idle, self._all = [], []
        for one in everyone:
            if one in idle:
                one.leave()
            else:
                one.close()


class _Call:
    """One stream: relays requests to the worker and responses back."""

    def __init__(self, used, requests, idle_timeout_s, stopping):
        self._worker = used
        self._requests = requests
        self._idle_timeout_s = idle_timeout_s
        self._stopping = stopping
        self._heard_from = time.monotonic()
        # Set while it is the worker that is waited for, and not the sender: a request
        # waits for room in the pipe, or all requests have come.
        self._owed_since = None
        self.feeder = threading.Thread(target=self._feed, daemon=True)

    def _feed(self):
        try:
            for request in self._requests:
                self._heard_from = time.monotonic()
                self._owed_since = time.monotonic()
                self._worker.send(self, b"M", request)
                self._heard_from, self._owed_since = time.monotonic(), None
            self._owed_since = time.monotonic()
            self._worker.send(self, b"F")
        except grpc.RpcError:
            pass  # Cancelled by the sender: the handler sees that itself.
        except (OSError, ValueError):
            pass  # The worker is gone: the handler sees that itself.
        except Exception as error:  # noqa: BLE001 - grpc ends its iterator with bare Exceptions
            log.debug("requests ended: %s", error)

    def responses(self, context):
        """Yields serialised responses; returns (status name, text)."""
        stop_sent = False
        answered = time.monotonic()
        while True:
            if self._stopping.is_set() and not stop_sent:
                stop_sent = True
                # In its own thread: the pipe may be full for a moment.
                threading.Thread(target=self._finish_now, daemon=True).start()
            if not context.is_active():
                return "CANCELLED", "the sender went away"
            owed_since, now = self._owed_since, time.monotonic()
            if owed_since is None and now - self._heard_from > self._idle_timeout_s:
                return "DEADLINE_EXCEEDED", f"nothing came for {self._idle_timeout_s:.0f} s: send audio or gaps"
            if owed_since is not None and now - max(owed_since, answered) > _ANSWER_TIMEOUT_S:
                return "INTERNAL", f"the decoder has not moved for {_ANSWER_TIMEOUT_S:.0f} s"
            try:
                if not self._worker.connection.poll(_POLL_S):
                    continue
                message = self._worker.connection.recv_bytes()
            except (EOFError, OSError):
                return "INTERNAL", "the recogniser's worker process ended"
            if message[:1] == b"R":
                yield message[1:]
                answered = time.monotonic()
            elif message[:1] == b"E":
                status, _, text = message[1:].decode("utf-8", "replace").partition("\n")
                if stop_sent and status == "OK":
                    return "UNAVAILABLE", "the recogniser is stopping"
                return status, text

    def _finish_now(self):
        try:
            self._worker.send(self, b"F")
        except (OSError, ValueError):
            pass  # The worker is gone: the handler sees that itself.


class Recogniser:
    """The service. `start`, then `stop` from any thread."""

    def __init__(self, max_calls, idle_timeout_s):
        self._pool = Pool(max_calls)
        self._idle_timeout_s = idle_timeout_s
        self._stopping = threading.Event()
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=max_calls + _SPARE_THREADS, thread_name_prefix="call"),
            maximum_concurrent_rpcs=max_calls + _SPARE_THREADS,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                # Little is buffered below us: back pressure shall reach the sender soon.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", 65536),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.so_reuseport", 0),
            ],
        )
        handler = grpc.stream_stream_rpc_method_handler(self._transcribe)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Transcribe": handler}),))

    def start(self, address, credentials):
        """Listens on `address` (host:port); returns the port. Raises OSError, WorkerFailed."""
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if port == 0:
            raise OSError(f"cannot listen on {address}")
        self._pool.warm()
        self._server.start()
        return port

    def stop(self, grace_s):
        """Settles what is being heard, ends the streams with UNAVAILABLE, and returns."""
        self._stopping.set()
        self._server.stop(grace_s).wait(grace_s + 5.0)
        self._pool.close()

    def _transcribe(self, requests, context):
        if self._stopping.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "the recogniser is stopping")
        try:
            used = self._pool.take()
        except WorkerFailed as failure:
            log.error("no worker: %s", failure)
            context.abort(grpc.StatusCode.INTERNAL, str(failure))
        if used is None:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._pool.size} calls are being transcribed: raise --max-calls or start another recogniser")
        call = _Call(used, requests, self._idle_timeout_s, self._stopping)
        used.serve(call)
        try:
            call.feeder.start()
            status, text = yield from call.responses(context)
        finally:
            self._pool.give_back(used)
        if status != "OK":
            log.info("stream ended: %s: %s", status, text)
            context.abort(grpc.StatusCode[status], text)

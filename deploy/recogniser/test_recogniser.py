"""Proves the reference recogniser against the contract, over real gRPC on loopback.

    run --venv DIR --test [--real-time] [-k PART_OF_NAME] [--show]

Each test starts from the sample calls in deploy/samples and the words that
deploy/samples/expected.json promises. Exit code 0: all held.
"""

import argparse
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import time
import unittest
import wave
from pathlib import Path

import grpc
import numpy as np

from trunkline.transcription.v1 import transcription_pb2 as pb
from trunkline.transcription.v1 import transcription_pb2_grpc as rpc
from trunkline_recogniser import audio, endpoint

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
EXPECTED = json.loads((SAMPLES / "expected.json").read_text())["calls"]
CALLER, AGENT = 0, 1
CHUNK_MS = 100
DEADLINE_S = 120
OPTIONS = argparse.Namespace(real_time=False, show=False)


class Service:
    """A recogniser of our own, on a free port, ended by its process id."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trunkline_recogniser", "--listen", "127.0.0.1:0", *arguments],
            stdout=subprocess.PIPE, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if ready else ""
        found = re.fullmatch(r"listening on (127\.0\.0\.1:\d+)\n", line)
        if not found:
            self.process.kill()
            raise AssertionError(f"the recogniser did not get ready; it said {line!r}")
        self.address = found[1]

    def stop(self):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the recogniser ignored SIGTERM for 30 s") from None
        finally:
            self.process.stdout.close()


class Stream:
    """One Transcribe stream: `send` requests, `next` responses, with a deadline."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address)
        self._requests = queue.Queue()
        self.call = rpc.TranscriptionStub(self._channel).Transcribe(
            iter(self._requests.get, None), timeout=DEADLINE_S)

    def send(self, **message):
        self._requests.put(pb.TranscribeRequest(**message))

    def half_close(self):
        self._requests.put(None)

    def next(self, kind):
        """Responses up to and including the next one of `kind`; returns that."""
        for response in self.call:
            if response.WhichOneof("message") == kind:
                return getattr(response, kind)
        raise AssertionError(f"the stream ended before {kind}")

    def rest(self):
        """All remaining responses; raises grpc.RpcError when it does not end with OK."""
        return list(self.call)

    def close(self):
        self._requests.put(None)
        self.call.cancel()
        self._channel.close()


def config(**changes):
    values = dict(
        tenant_id="default", call_id="test", language="en-US", sample_rate_hz=8000,
        encoding=pb.ENCODING_MULAW, want_partials=True, want_words=True,
        channels=[pb.Channel(index=CALLER, speaker=pb.SPEAKER_CALLER, name="caller"),
                  pb.Channel(index=AGENT, speaker=pb.SPEAKER_AGENT, name="agent")])
    values.update(changes)
    return pb.Config(**values)


def sample(name):
    """A sample call as float32 samples."""
    with wave.open(str(SAMPLES / f"{name}.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)


def encode(samples, encoding):
    """What the sender does: to the nearest G.711 code by the decoder's own table."""
    if encoding == pb.ENCODING_LINEAR16:
        return audio.to_pcm(samples)
    table = audio.to_linear("MULAW" if encoding == pb.ENCODING_MULAW else "ALAW", bytes(range(256)))
    order = np.argsort(table, kind="stable")
    middles = (table[order][1:] + table[order][:-1]) / 2
    return order[np.searchsorted(middles, samples)].astype(np.uint8).tobytes()


def frames(voices, encoding, at_ms=0, sequence=0):
    """AudioFrames of CHUNK_MS for {channel: samples}, all padded to the longest."""
    width = 8 * CHUNK_MS
    length = -(-max(len(samples) for samples in voices.values()) // width) * width
    coded = {channel: encode(np.pad(samples, (0, length - len(samples))), encoding)
             for channel, samples in voices.items()}
    step = width * (2 if encoding == pb.ENCODING_LINEAR16 else 1)
    for number in range(length // width):
        yield pb.AudioFrame(
            sequence=sequence + number, start_ms=at_ms + number * CHUNK_MS,
            channels=[pb.ChannelAudio(channel=channel, audio=data[number * step:(number + 1) * step])
                      for channel, data in coded.items()])


def finals(responses, channel):
    return [r.segment for r in responses
            if r.WhichOneof("message") == "segment" and r.segment.is_final and r.segment.channel == channel]


def text(responses, channel):
    return " ".join(segment.text for segment in finals(responses, channel)).strip()


class RecogniserTest(unittest.TestCase):
    """Against one service with two calls at a time."""

    @classmethod
    def setUpClass(cls):
        cls.service = Service("--max-calls", "2", "--idle-timeout", "4")

    @classmethod
    def tearDownClass(cls):
        code = cls.service.stop()
        assert code == 0, f"the recogniser ended with {code} after SIGTERM"

    def stream(self, **changes):
        """A stream that has sent its configuration."""
        stream = Stream(self.service.address)
        self.addCleanup(stream.close)
        stream.send(config=config(**changes))
        return stream

    def accepted(self, **changes):
        """A stream with its Accepted; waits while earlier calls are being cleared away."""
        deadline = time.monotonic() + 20
        while True:
            stream = self.stream(**changes)
            try:
                return stream, stream.next("accepted")
            except grpc.RpcError as error:
                if error.code().name != "RESOURCE_EXHAUSTED" or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def transcribe(self, voices, encoding=pb.ENCODING_MULAW, **changes):
        """A whole call; all its responses."""
        stream, _ = self.accepted(encoding=encoding, **changes)
        began, last = time.monotonic(), 0
        for frame in frames(voices, encoding):
            stream.send(audio=frame)
            last = frame.start_ms + CHUNK_MS
            if OPTIONS.real_time:
                time.sleep(max(0.0, began + last / 1000 - time.monotonic()))
        stream.send(end_of_audio=pb.EndOfAudio(end_ms=last))
        stream.half_close()
        responses = stream.rest()
        if OPTIONS.show:
            for channel in voices:
                for segment in finals(responses, channel):
                    print(f"  {channel} {segment.start_ms:6} {segment.end_ms:6} "
                          f"{segment.confidence:.2f} {segment.text}")
        return responses

    def assert_found(self, name, heard):
        missing = [word for word in EXPECTED[name]["words"] if word not in heard.split()]
        self.assertFalse(missing, f"{name}: {missing} not found in {heard!r}")

    def refused(self, stream):
        with self.assertRaises(grpc.RpcError) as raised:
            stream.rest()
        return raised.exception.code().name, raised.exception.details()

    def test_words_of_every_sample_call_in_every_encoding(self):
        for name in EXPECTED:
            for encoding in (pb.ENCODING_MULAW, pb.ENCODING_ALAW, pb.ENCODING_LINEAR16):
                with self.subTest(name=name, encoding=pb.Encoding.Name(encoding)):
                    responses = self.transcribe({CALLER: sample(name)}, encoding)
                    self.assert_found(name, text(responses, CALLER))

    def test_channels_that_speak_at_once_are_not_mixed(self):
        responses = self.transcribe({CALLER: sample("caller-billing"), AGENT: sample("agent-greeting")})
        self.assert_found("caller-billing", text(responses, CALLER))
        self.assert_found("agent-greeting", text(responses, AGENT))
        own = {channel: set(EXPECTED[name]["only"])
               for channel, name in ((CALLER, "caller-billing"), (AGENT, "agent-greeting"))}
        self.assertFalse(own[CALLER] & set(text(responses, AGENT).split()))
        self.assertFalse(own[AGENT] & set(text(responses, CALLER).split()))

    def test_segments_and_words_lie_where_the_speech_is(self):
        responses = self.transcribe({CALLER: sample("caller-billing")})
        segments = finals(responses, CALLER)
        self.assertGreaterEqual(len(segments), EXPECTED["caller-billing"]["sentences"])
        truth = speech_intervals(sample("caller-billing"))
        before = 0
        for segment in segments:
            self.assertLessEqual(before, segment.start_ms)
            self.assertLess(segment.start_ms, segment.end_ms)
            before = segment.end_ms
            start, end = min(truth, key=lambda t: abs(t[0] - segment.start_ms))
            self.assertLess(abs(segment.start_ms - start), 200, f"{segment.text!r}: speech begins at {start}")
            self.assertLess(abs(segment.end_ms - end), 300, f"{segment.text!r}: speech ends at {end}")
            self.assertEqual(" ".join(word.text for word in segment.words), segment.text)
            times = [t for word in segment.words for t in (word.start_ms, word.end_ms)]
            self.assertEqual(times, sorted(times))

    def test_partials_grow_into_the_final_and_stop_there(self):
        responses = self.transcribe({CALLER: sample("caller-order")})
        settled, partials = set(), 0
        for response in responses:
            if response.WhichOneof("message") == "segment":
                self.assertNotIn(response.segment.segment_id, settled)
                partials += not response.segment.is_final
                if response.segment.is_final:
                    settled.add(response.segment.segment_id)
        self.assertGreater(partials, 4)
        without = self.transcribe({CALLER: sample("caller-order")}, want_partials=False)
        self.assertTrue(all(r.segment.is_final for r in without if r.WhichOneof("message") == "segment"))

    def test_progress_reaches_the_end_and_only_grows(self):
        responses = self.transcribe({CALLER: sample("caller-order")})
        seen = [r.progress.channels[0].processed_ms for r in responses if r.WhichOneof("message") == "progress"]
        self.assertEqual(seen, sorted(seen))
        self.assertGreaterEqual(len(seen), 10)
        self.assertEqual(seen[-1], -(-len(sample("caller-order")) // (8 * CHUNK_MS)) * CHUNK_MS)

    def test_a_marked_gap_is_acknowledged_and_keeps_the_times_right(self):
        stream, _ = self.accepted()
        voice = sample("caller-order")
        half = list(frames({CALLER: voice[:8 * 4000]}, pb.ENCODING_MULAW, at_ms=5000))
        for frame in half:
            stream.send(audio=frame)
        stream.send(gap=pb.Gap(gap_id=7, start_ms=9000, end_ms=39000, channels=[CALLER],
                               reason=pb.GAP_REASON_BACK_PRESSURE))
        for frame in frames({CALLER: voice}, pb.ENCODING_MULAW, at_ms=39000, sequence=len(half) + 300):
            stream.send(audio=frame)
        stream.send(end_of_audio=pb.EndOfAudio(end_ms=50000))
        stream.half_close()
        responses = stream.rest()
        kinds = [r.WhichOneof("message") for r in responses]
        self.assertNotIn("error", kinds)
        at = kinds.index("gap_acknowledged")
        self.assertEqual(responses[at].gap_acknowledged.gap_id, 7)
        self.assertTrue(finals(responses[:at], CALLER))
        for segment in finals(responses[:at], CALLER):
            self.assertTrue(5000 <= segment.start_ms < segment.end_ms <= 9000, segment)
        for segment in finals(responses[at:], CALLER):
            self.assertGreaterEqual(segment.start_ms, 39000)
        self.assert_found("caller-order", text(responses[at:], CALLER))

    def test_a_gap_nobody_marked_is_reported_not_bridged(self):
        stream, _ = self.accepted()
        voice = sample("caller-order")[:8 * 2000]
        for frame in frames({CALLER: voice}, pb.ENCODING_MULAW):
            stream.send(audio=frame)
        for frame in frames({CALLER: voice}, pb.ENCODING_MULAW, at_ms=10000, sequence=100):
            stream.send(audio=frame)
        error = stream.next("error")
        self.assertEqual(error.code, pb.ERROR_CODE_UNMARKED_GAP)
        self.assertEqual((error.channel, error.start_ms, error.end_ms), (CALLER, 2000, 10000))

    def test_silence_and_line_noise_give_no_words(self):
        noise = np.random.default_rng(1).normal(0, 12, 8 * 6000).astype(np.float32)
        responses = self.transcribe({CALLER: noise, AGENT: np.zeros(8 * 6000, np.float32)})
        self.assertEqual((text(responses, CALLER), text(responses, AGENT)), ("", ""))

    def test_speech_without_a_pause_is_cut_and_said_so(self):
        spoken = sample("caller-order")
        start, end = speech_intervals(spoken)[1]
        endless = np.tile(spoken[8 * (start + 60):8 * (end - 60)], 40)[:8 * (endpoint.LIMIT_MS + 6000)]
        hum = 900 * np.sin(np.arange(len(endless)) * 2 * np.pi * 440 / 8000)
        responses = self.transcribe({CALLER: (endless + hum).astype(np.float32)}, want_partials=False)
        segments = finals(responses, CALLER)
        self.assertTrue(all(s.end_ms - s.start_ms <= endpoint.LIMIT_MS + 100 for s in segments))
        self.assertIn(pb.ERROR_CODE_SEGMENT_CUT, [r.error.code for r in responses if r.HasField("error")])

    def test_hints_are_taken_and_unknown_words_told(self):
        hints = [pb.PhraseHint(phrase="Zorblax telephone", boost=3), pb.PhraseHint(phrase="customer number")]
        _, accepted = self.accepted(phrase_hints=hints)
        self.assertEqual(list(accepted.ignored_hint_words), ["zorblax"])
        with_hints = self.transcribe({CALLER: sample("caller-order")}, phrase_hints=hints)
        self.assert_found("caller-order", text(with_hints, CALLER))
        lie = [pb.PhraseHint(phrase="elephant", boost=20)]
        self.assertNotIn("elephant", text(self.transcribe({CALLER: sample("caller-order")}, phrase_hints=lie), CALLER))

    def test_a_strong_hint_brings_out_a_word_that_is_mistaken_without_it(self):
        call = {CALLER: sample("caller-support")}
        for word in EXPECTED["caller-support"]["hinted"]:
            self.assertNotIn(word, text(self.transcribe(call), CALLER).split(), "then it needs no hint")
            hinted = self.transcribe(call, phrase_hints=[pb.PhraseHint(phrase=word, boost=3)])
            self.assertIn(word, text(hinted, CALLER).split())
            segment = next(s for s in finals(hinted, CALLER) if word in s.text)
            self.assertEqual(" ".join(w.text for w in segment.words), segment.text)

    def test_bad_messages_are_refused_with_the_field_named(self):
        frame = next(frames({CALLER: np.zeros(800, np.float32)}, pb.ENCODING_MULAW))
        cases = [
            ("INVALID_ARGUMENT", "tenant_id", [dict(config=config(tenant_id=""))]),
            ("INVALID_ARGUMENT", "sample_rate_hz", [dict(config=config(sample_rate_hz=44100))]),
            ("INVALID_ARGUMENT", "encoding", [dict(config=config(encoding=0))]),
            ("UNIMPLEMENTED", "encoding", [dict(config=config(encoding=99))]),
            ("UNIMPLEMENTED", "language", [dict(config=config(language="de-DE"))]),
            ("INVALID_ARGUMENT", "channels", [dict(config=config(channels=[]))]),
            ("INVALID_ARGUMENT", "boost", [dict(config=config(phrase_hints=[pb.PhraseHint(phrase="a", boost=-1)]))]),
            ("FAILED_PRECONDITION", "config", [dict(audio=frame)]),
            ("FAILED_PRECONDITION", "config", [dict(config=config()), dict(config=config())]),
            ("INVALID_ARGUMENT", "sequence", [dict(config=config()), dict(audio=frame), dict(audio=frame)]),
            ("INVALID_ARGUMENT", "start_ms", [
                dict(config=config()), dict(audio=frame),
                dict(audio=pb.AudioFrame(sequence=1, start_ms=50, channels=frame.channels))]),
            ("INVALID_ARGUMENT", "channel", [dict(config=config()), dict(audio=pb.AudioFrame(
                channels=[pb.ChannelAudio(channel=5, audio=bytes(80))]))]),
            ("INVALID_ARGUMENT", "bytes", [dict(config=config()), dict(audio=pb.AudioFrame(
                channels=[pb.ChannelAudio(channel=CALLER, audio=bytes(81))]))]),
            ("INVALID_ARGUMENT", "gap.end_ms", [dict(config=config()), dict(gap=pb.Gap(start_ms=5, end_ms=5))]),
        ]
        for status, field, messages in cases:
            with self.subTest(status=status, field=field):
                stream = Stream(self.service.address)
                self.addCleanup(stream.close)
                for message in messages:
                    stream.send(**message)
                code, details = self.refused(stream)
                self.assertEqual(code, status, details)
                self.assertIn(field, details)

    def test_more_calls_than_allowed_are_refused_and_a_cancelled_one_makes_room(self):
        held = [self.accepted()[0] for _ in range(2)]
        code, details = self.refused(self.stream())
        self.assertEqual(code, "RESOURCE_EXHAUSTED")
        self.assertIn("--max-calls", details)
        held[0].call.cancel()
        self.accepted()

    def test_a_silent_sender_is_let_go(self):
        stream, _ = self.accepted()
        self.assertEqual(self.refused(stream)[0], "DEADLINE_EXCEEDED")


class StopTest(unittest.TestCase):
    """SIGTERM in the middle of a sentence."""

    def test_sigterm_settles_what_was_heard_and_ends_with_unavailable(self):
        service = Service("--max-calls", "1")
        self.addCleanup(service.stop)
        stream = Stream(service.address)
        self.addCleanup(stream.close)
        stream.send(config=config())
        voice = sample("caller-billing")
        start, end = speech_intervals(voice)[0]
        for frame in frames({CALLER: voice[:8 * (end - 100)]}, pb.ENCODING_MULAW):
            stream.send(audio=frame)
        stream.next("segment")
        os.kill(service.process.pid, signal.SIGTERM)
        responses = []
        with self.assertRaises(grpc.RpcError) as raised:
            for response in stream.call:
                responses.append(response)
        self.assertEqual(raised.exception.code().name, "UNAVAILABLE")
        self.assertTrue(finals(responses, CALLER), "what was heard was not settled")
        self.assertEqual(service.stop(), 0)


def speech_intervals(samples):
    """Where a clean sample has sound: [(start_ms, end_ms)], pauses of 500 ms divide."""
    loud = np.flatnonzero(np.abs(samples) > 300)
    breaks = np.flatnonzero(np.diff(loud) > 8 * 500)
    starts = np.concatenate([loud[:1], loud[breaks + 1]])
    ends = np.concatenate([loud[breaks], loud[-1:]])
    return [(int(a) // 8, int(b) // 8) for a, b in zip(starts, ends)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real-time", action="store_true", help="send audio at the speed of speech")
    parser.add_argument("--show", action="store_true", help="print what was heard")
    parser.add_argument("-k", metavar="PART", help="only tests whose name contains PART")
    parser.parse_args(namespace=OPTIONS)
    loader = unittest.TestLoader()
    if OPTIONS.k:
        loader.testNamePatterns = [f"*{OPTIONS.k}*"]
    suite = loader.loadTestsFromModule(sys.modules[__name__])
    if not suite.countTestCases():
        print(f"no test is called like {OPTIONS.k}", file=sys.stderr)
        return 2
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())

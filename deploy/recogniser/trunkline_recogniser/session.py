"""One call's stream, without I/O: requests in, responses out.

Checks every message against the contract (transcription.proto) and drives an
endpointer and a decoder for each channel. What it holds is bounded: per channel
LEAD_MS of audio, and one segment of at most LIMIT_MS.
"""

import math

from trunkline.transcription.v1 import transcription_pb2 as pb

from . import VERSION, endpoint
from .audio import Resampler, bytes_per_sample, to_linear
from .decoder import LANGUAGE, MODEL, DecodeFailed

RATES_HZ = (8000, 16000)
MAX_CHANNELS = 8
MAX_HINTS = 500
MAX_FRAME_MS = 1000
# 400 days: no call is longer, and arithmetic stays far from any limit.
MAX_TIME_MS = 400 * 86_400_000
# A partial is looked for when this much more speech has been decoded.
PARTIAL_EVERY_MS = 400
PROGRESS_EVERY_MS = 500
_ENCODINGS = {pb.ENCODING_LINEAR16: "LINEAR16", pb.ENCODING_MULAW: "MULAW", pb.ENCODING_ALAW: "ALAW"}


class Refused(Exception):
    """The stream ends with gRPC status `status` (its name) and this text."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def _invalid(text):
    return Refused("INVALID_ARGUMENT", text)


class Session:
    """The state of one stream. `handle` for each request; `finish` when it ends."""

    def __init__(self, decoders):
        """`decoders(n)` gives n decoders that nobody else uses meanwhile."""
        self._decoders = decoders
        self._config = None
        self._channels = {}
        self._sequence = None
        self._ended = False
        self._reported_ms = 0

    def handle(self, request):
        """Takes one TranscribeRequest; yields TranscribeResponses; raises Refused."""
        kind = request.WhichOneof("message")
        if self._ended:
            raise Refused("FAILED_PRECONDITION", "a message after end_of_audio: half-close the stream instead")
        if kind is None:
            return  # A later contract's message: ignored, as the contract says.
        if kind == "config":
            yield self._configure(request.config)
        elif self._config is None:
            raise Refused("FAILED_PRECONDITION", f"{kind} before config: send config first")
        elif kind == "audio":
            yield from self._audio(request.audio)
        elif kind == "gap":
            yield from self._gap(request.gap)
        else:
            self._ended = True
            _check_time("end_of_audio.end_ms", request.end_of_audio.end_ms)
            yield from self.finish()

    @property
    def ended(self):
        """Whether `end_of_audio` came and everything was answered."""
        return self._ended

    def finish(self):
        """Settles what is being heard, and says how far it all went."""
        for channel in self._channels.values():
            yield from channel.settle()
        if any(channel.heard_any for channel in self._channels.values()):
            yield self._progress()

    def _configure(self, config):
        if self._config is not None:
            raise Refused("FAILED_PRECONDITION", "a second config: open another stream instead")
        _check_config(config)
        decoders = self._decoders(len(config.channels))
        hints, ignored = _hints(config.phrase_hints, decoders[0])
        for spec, decoder in zip(config.channels, decoders):
            decoder.reset(hints, config.want_partials)
            self._channels[spec.index] = _Channel(spec.index, config, decoder)
        self._config = config
        return pb.TranscribeResponse(accepted=pb.Accepted(
            recogniser=f"trunkline-recogniser {VERSION}", model=MODEL, language=LANGUAGE,
            ignored_hint_words=ignored[:100],
        ))

    def _audio(self, frame):
        if self._sequence is not None and frame.sequence <= self._sequence:
            raise _invalid(f"audio.sequence {frame.sequence} after {self._sequence}: it must increase")
        self._sequence = frame.sequence
        _check_time("audio.start_ms", frame.start_ms)
        if not frame.channels:
            raise _invalid("audio.channels is empty: send at least one channel's samples")
        lengths = {len(entry.audio) for entry in frame.channels}
        if len(lengths) > 1:
            raise _invalid("audio.channels differ in length: one frame is one interval")
        if len({entry.channel for entry in frame.channels}) < len(frame.channels):
            raise _invalid("audio.channels has a channel twice")
        duration_ms = self._duration_ms(lengths.pop())
        for entry in frame.channels:
            channel = self._channel("audio.channels.channel", entry.channel)
            channel.check_start(frame.start_ms)
        for entry in frame.channels:
            yield from self._channels[entry.channel].audio(frame.start_ms, duration_ms, entry.audio)
        latest = max(channel.processed_ms for channel in self._channels.values())
        if latest - self._reported_ms >= PROGRESS_EVERY_MS:
            self._reported_ms = latest
            yield self._progress()

    def _gap(self, gap):
        _check_time("gap.end_ms", gap.end_ms)
        if gap.start_ms >= gap.end_ms:
            raise _invalid(f"gap.end_ms {gap.end_ms} is not after gap.start_ms {gap.start_ms}")
        channels = [self._channel("gap.channels", index) for index in gap.channels]
        for channel in channels or self._channels.values():
            yield from channel.gap(gap.end_ms)
        yield pb.TranscribeResponse(gap_acknowledged=pb.GapAcknowledged(gap_id=gap.gap_id))

    def _channel(self, where, index):
        channel = self._channels.get(index)
        if channel is None:
            raise _invalid(f"{where} {index} is not in config.channels")
        return channel

    def _duration_ms(self, length):
        rate = self._config.sample_rate_hz
        per_ms = rate // 1000 * bytes_per_sample(_ENCODINGS[self._config.encoding])
        if length == 0 or length % per_ms:
            raise _invalid(f"audio has {length} bytes: send a multiple of {per_ms}, whole milliseconds at {rate} Hz")
        if length // per_ms > MAX_FRAME_MS:
            raise _invalid(f"audio has {length // per_ms} ms: send at most {MAX_FRAME_MS} ms in a frame")
        return length // per_ms

    def _progress(self):
        return pb.TranscribeResponse(progress=pb.Progress(channels=[
            pb.ChannelProgress(channel=index, processed_ms=channel.processed_ms)
            for index, channel in sorted(self._channels.items()) if channel.heard_any
        ]))


class _Channel:
    """One voice: where its audio has come to and the segment being heard."""

    def __init__(self, index, config, decoder):
        self.processed_ms = 0
        self.heard_any = False
        self._index = index
        self._encoding = _ENCODINGS[config.encoding]
        self._rate = config.sample_rate_hz
        self._partials = config.want_partials
        self._words = config.want_words
        self._decoder = decoder
        self._base_ms = 0
        self._endpointer = None
        self._segments = 0
        self._resampler = None
        self._speaking = False
        self._start_ms = 0
        self._decoded = 0
        self._looked_ms = 0
        self._shown = ""

    def check_start(self, start_ms):
        if self.heard_any and start_ms < self.processed_ms:
            raise _invalid(
                f"audio.start_ms {start_ms} on channel {self._index} lies before {self.processed_ms}, "
                "the end of what was sent")

    def audio(self, start_ms, duration_ms, data):
        if self.heard_any and start_ms > self.processed_ms:
            missing_from = self.processed_ms
            yield from self.settle()
            yield _error(pb.ERROR_CODE_UNMARKED_GAP, "audio is missing and no gap was marked",
                         self._index, missing_from, start_ms)
        if self._endpointer is None:
            self._endpointer = endpoint.Endpointer(self._rate)
            self._base_ms = start_ms
        self.heard_any = True
        yield from self._run(self._endpointer.push(to_linear(self._encoding, data)))
        self.processed_ms = start_ms + duration_ms

    def gap(self, end_ms):
        yield from self.settle()
        self.processed_ms = max(self.processed_ms, end_ms)
        self.heard_any = True

    def settle(self):
        """Ends the stretch of contiguous audio."""
        if self._endpointer is not None:
            yield from self._run(self._endpointer.finish())
            self._endpointer = None

    def _run(self, events):
        for event in events:
            try:
                if isinstance(event, endpoint.Begin):
                    self._begin(event)
                elif isinstance(event, endpoint.Speech):
                    yield from self._speech(event)
                else:
                    yield from self._end(event)
            except DecodeFailed as failure:
                yield from self._failed(failure)

    def _begin(self, event):
        self._start_ms = self._ms(event.start)
        self._resampler = Resampler(self._rate)
        self._decoded = self._looked_ms = 0
        self._shown = ""
        self._speaking = True
        self._segments += 1
        self._decoder.begin()

    def _speech(self, event):
        if not self._speaking:
            return  # The decoder failed on this segment; the next one begins afresh.
        self._decoder.push(self._resampler.push(event.samples))
        self._decoded += len(event.samples)
        decoded_ms = self._decoded * 1000 // self._rate
        if self._partials and decoded_ms - self._looked_ms >= PARTIAL_EVERY_MS:
            self._looked_ms = decoded_ms
            text = self._decoder.partial()
            if text and text != self._shown:
                self._shown = text
                yield self._segment(text, self._start_ms, self._start_ms + decoded_ms, False)

    def _end(self, event):
        if not self._speaking:
            return
        self._speaking = False
        heard = self._decoder.end()
        end_ms = max(self._ms(event.end), self._start_ms + endpoint.FRAME_MS)
        if heard.text or self._shown:
            yield self._final(heard, end_ms)
        if event.cut:
            yield _error(pb.ERROR_CODE_SEGMENT_CUT, f"speech without a pause for {endpoint.LIMIT_MS} ms was cut",
                         self._index, end_ms, end_ms)

    def _failed(self, failure):
        if self._speaking:
            self._speaking = False
            self._decoder.abandon()
            if self._shown:
                yield self._segment("", self._start_ms, self._start_ms + endpoint.FRAME_MS, True)
            decoded_ms = self._decoded * 1000 // self._rate
            yield _error(pb.ERROR_CODE_DECODE_FAILED, f"the decoder failed: {failure}",
                         self._index, self._start_ms, self._start_ms + decoded_ms)

    def _final(self, heard, end_ms):
        start_ms = self._start_ms
        if heard.words:
            # The words are surer about the speech's extent than the detector's lead.
            start_ms = min(start_ms + heard.words[0].start_ms, end_ms - endpoint.FRAME_MS)
        response = self._segment(heard.text, start_ms, end_ms, True)
        if heard.confidence is not None:
            response.segment.confidence = heard.confidence
        for word in heard.words if self._words else ():
            entry = response.segment.words.add(
                text=word.text,
                start_ms=min(self._start_ms + word.start_ms, end_ms),
                end_ms=min(self._start_ms + word.end_ms, end_ms))
            if word.confidence is not None:
                entry.confidence = word.confidence
        return response

    def _segment(self, text, start_ms, end_ms, final):
        return pb.TranscribeResponse(segment=pb.Segment(
            segment_id=f"{self._index}-{self._base_ms}-{self._segments}", channel=self._index,
            start_ms=start_ms, end_ms=end_ms, text=text[:4096], is_final=final))

    def _ms(self, samples):
        return self._base_ms + samples * 1000 // self._rate


def _error(code, message, channel, start_ms, end_ms):
    return pb.TranscribeResponse(error=pb.Error(
        code=code, message=message, channel=channel, start_ms=start_ms, end_ms=end_ms))


def _check_time(where, value):
    if value > MAX_TIME_MS:
        raise _invalid(f"{where} {value} is too large: it counts milliseconds from the recording's first sample")


def _check_config(config):
    if not 1 <= len(config.tenant_id) <= 64:
        raise _invalid("config.tenant_id needs 1 to 64 characters")
    if not 1 <= len(config.call_id) <= 128:
        raise _invalid("config.call_id needs 1 to 128 characters")
    if config.language and config.language.lower().split("-")[0] != "en":
        raise Refused("UNIMPLEMENTED", f"config.language {config.language[:40]!r}: this recogniser knows {LANGUAGE}")
    if config.sample_rate_hz not in RATES_HZ:
        raise _invalid(f"config.sample_rate_hz {config.sample_rate_hz}: send 8000 or 16000")
    if config.encoding == pb.ENCODING_UNSPECIFIED:
        raise _invalid("config.encoding is not set: send LINEAR16, MULAW or ALAW")
    if config.encoding not in _ENCODINGS:
        raise Refused("UNIMPLEMENTED", f"config.encoding {config.encoding}: send LINEAR16, MULAW or ALAW")
    if not 1 <= len(config.channels) <= MAX_CHANNELS:
        raise _invalid(f"config.channels has {len(config.channels)} entries: send 1 to {MAX_CHANNELS}")
    indices = [channel.index for channel in config.channels]
    if len(set(indices)) < len(indices) or max(indices) > 31:
        raise _invalid("config.channels.index must be distinct and at most 31")
    if any(len(channel.name) > 64 for channel in config.channels):
        raise _invalid("config.channels.name has more than 64 characters")
    if len(config.phrase_hints) > MAX_HINTS:
        raise _invalid(f"config.phrase_hints has {len(config.phrase_hints)} entries: send at most {MAX_HINTS}")


def _hints(hints, decoder):
    """([(words, boost)], words without a pronunciation)."""
    usable, ignored = [], []
    for hint in hints:
        if len(hint.phrase) > 100:
            raise _invalid("config.phrase_hints.phrase has more than 100 characters")
        if not (math.isfinite(hint.boost) and 0 <= hint.boost <= 20):
            raise _invalid(f"config.phrase_hints.boost {hint.boost}: send 0 to 20")
        words = [word.strip(".,;:!?\"") for word in hint.phrase.lower().split()]
        words = [word for word in words if word]
        unknown = [word for word in words if not decoder.knows(word)]
        ignored.extend(word for word in unknown if word not in ignored)
        if words and not unknown:
            usable.append((words, hint.boost or 1.0))
    return usable, ignored

"""Where speech begins and ends on one channel.

The decision for each 20 ms is the WebRTC voice activity detector's that comes with
PocketSphinx; what makes stretches of speech out of it is here. Positions are sample
counts from the first sample pushed: the caller starts a new `Endpointer` after a gap.
"""

from collections import deque

import numpy as np
from pocketsphinx import Vad

from .audio import to_pcm

FRAME_MS = 20
# Speech begins when ONSET_OF of the last ONSET_IN frames are speech: a click is not.
ONSET_OF, ONSET_IN = 4, 6
# Audio kept from before the onset, so that soft first consonants reach the decoder.
LEAD_MS = 240
# A pause of this length ends a segment …
PAUSE_MS = 600
# … and a shorter one does when the segment has become long.
LONG_MS, LONG_PAUSE_MS = 10_000, 200
# Whatever happens, a segment ends here. Bounds the decoder's memory and delay.
LIMIT_MS = 20_000
# Silence after the last speech frame that still belongs to the segment.
TRAIL_MS = 200


class Begin:
    """Speech begins at `start` (samples)."""

    def __init__(self, start):
        self.start = start


class Speech:
    """The next samples of the segment that has begun."""

    def __init__(self, samples):
        self.samples = samples


class End:
    """The segment is over; speech was heard until `end` (samples). `cut`: by LIMIT_MS."""

    def __init__(self, end, cut=False):
        self.end = end
        self.cut = cut


class Endpointer:
    """Finds segments in contiguous audio; holds at most LEAD_MS of it."""

    def __init__(self, rate_hz):
        self._frame = rate_hz * FRAME_MS // 1000
        self._vad = Vad(Vad.MEDIUM_STRICT, rate_hz, FRAME_MS / 1000)
        if self._vad.frame_bytes != 2 * self._frame:
            raise ValueError(f"no voice activity detector for {rate_hz} Hz")
        self._rest = np.zeros(0, dtype=np.float32)
        self._lead = deque(maxlen=LEAD_MS // FRAME_MS)
        self._votes = deque(maxlen=ONSET_IN)
        self._position = 0
        self._begun = None
        self._last_speech = 0
        self._pending = deque()

    def _ms(self, samples):
        return samples * FRAME_MS // self._frame

    def push(self, samples):
        """Takes the next samples; yields Begin, Speech and End in order."""
        data = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(data) // self._frame * self._frame
        self._rest = data[whole:].copy()
        for offset in range(0, whole, self._frame):
            yield from self._step(data[offset:offset + self._frame])

    def finish(self):
        """Ends a segment that has begun, because no more contiguous audio comes."""
        if self._begun is not None:
            yield from self._close(cut=False)
        self._rest = self._rest[:0]

    def _step(self, frame):
        heard = self._vad.is_speech(to_pcm(frame))
        self._position += self._frame
        if self._begun is None:
            yield from self._outside(frame, heard)
            return
        if heard:
            self._last_speech = self._position
        # Frames of a pause wait: those beyond TRAIL_MS are only passed on when the
        # speaker goes on, so that the segment does not end in long silence.
        self._pending.append(frame)
        quiet = self._ms(self._position - self._last_speech)
        if heard or quiet <= TRAIL_MS:
            yield from self._flush()
        length = self._ms(self._position - self._begun)
        if quiet >= (LONG_PAUSE_MS if length >= LONG_MS else PAUSE_MS):
            yield from self._close(cut=False)
        elif length >= LIMIT_MS:
            yield from self._flush()
            yield from self._close(cut=True)

    def _outside(self, frame, heard):
        self._lead.append(frame)
        self._votes.append(heard)
        if sum(self._votes) < ONSET_OF:
            return
        self._begun = max(0, self._position - len(self._lead) * self._frame)
        self._last_speech = self._position
        lead = list(self._lead)
        self._lead.clear()
        self._votes.clear()
        yield Begin(self._begun)
        yield Speech(np.concatenate(lead))

    def _flush(self):
        if self._pending:
            frames = list(self._pending)
            self._pending.clear()
            yield Speech(np.concatenate(frames))

    def _close(self, cut):
        self._lead.extend(self._pending)
        self._pending.clear()
        self._begun = None
        yield End(self._last_speech if not cut else self._position, cut)

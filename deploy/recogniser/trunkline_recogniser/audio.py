"""Samples: G.711 to linear, and 8 kHz to the 16 kHz of the acoustic model.

Everything works on numpy arrays of float32 in the range of 16-bit samples.
"""

import numpy as np

MODEL_RATE_HZ = 16000

# How much of the mirror image of the telephone band is left above 4 kHz. The model
# was trained on 16 kHz speech and its upper filters see only rounding noise when the
# image is removed entirely; a trace of it makes them rise and fall with the speech.
# Word errors on 16 telephone-band development sentences of one synthetic voice, by gain:
# 0: 11.5 %, 0.01: 8.8 %, 0.03: 8.0 %, 0.06: 7.1 %, 0.15: 8.0 % (113 words, so only the
# step away from 0 means much).
IMAGE_GAIN = 0.05

_TAPS = 127


def _low_pass():
    """Half-band interpolation filter: 0 to 3.8 kHz at 16 kHz, Kaiser window."""
    cutoff = 3800 / MODEL_RATE_HZ
    k = np.arange(_TAPS) - (_TAPS - 1) / 2
    taps = 2 * cutoff * np.sinc(2 * cutoff * k) * np.kaiser(_TAPS, 8.0)
    return taps / taps.sum()


def _interpolator():
    """Low pass plus IMAGE_GAIN × its complement, as one filter (gain 2 for the zeros)."""
    low = _low_pass()
    delta = np.zeros(_TAPS)
    delta[(_TAPS - 1) // 2] = 1.0
    return (2.0 * (low + IMAGE_GAIN * (delta - low))).astype(np.float32)


def _mulaw_table():
    """ITU-T G.711 µ-law, all bits inverted on the wire; 14-bit values scaled by 4."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code >> 4) & 7)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32)


def _alaw_table():
    """ITU-T G.711 A-law, even bits inverted on the wire; 13-bit values scaled by 8."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent = (code >> 4) & 7
    mantissa = ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent == 0, mantissa, (mantissa + 0x100) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.float32)


_INTERPOLATOR = _interpolator()
_TABLES = {"MULAW": _mulaw_table(), "ALAW": _alaw_table()}


def bytes_per_sample(encoding):
    """Bytes for one sample of `encoding` ("LINEAR16", "MULAW" or "ALAW")."""
    return 2 if encoding == "LINEAR16" else 1


def to_linear(encoding, data):
    """The samples of `data` as float32 with 16-bit range."""
    if encoding == "LINEAR16":
        return np.frombuffer(data, dtype="<i2").astype(np.float32)
    return _TABLES[encoding][np.frombuffer(data, dtype=np.uint8)]


def to_pcm(samples):
    """float32 samples as little-endian 16-bit bytes, limited to the range."""
    return np.clip(np.rint(samples), -32768, 32767).astype("<i2").tobytes()


class Resampler:
    """Brings one stretch of speech from `rate_hz` to 16 kHz, chunk by chunk.

    The delay is 63 output samples (4 ms), which is below a frame of the model.
    """

    def __init__(self, rate_hz):
        if rate_hz not in (8000, MODEL_RATE_HZ):
            raise ValueError(f"no conversion from {rate_hz} Hz")
        self._double = rate_hz != MODEL_RATE_HZ
        self._tail = np.zeros(_TAPS - 1, dtype=np.float32)

    def push(self, samples):
        """The next chunk at 16 kHz: as many samples, or twice as many from 8 kHz."""
        if not self._double or not len(samples):
            return samples
        stuffed = np.zeros(2 * len(samples), dtype=np.float32)
        stuffed[::2] = samples
        joined = np.concatenate([self._tail, stuffed])
        self._tail = joined[-(_TAPS - 1):]
        return np.convolve(joined, _INTERPOLATOR, mode="valid")

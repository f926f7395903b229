"""One channel's PocketSphinx decoder: a stretch of speech in, text with times out.

Times here are milliseconds from the first sample of the stretch. A decoder costs
about 90 MB and a quarter of a second to make, so a worker keeps and reuses it.
"""

import itertools
import math
from dataclasses import dataclass, field

import pocketsphinx

from .audio import to_pcm

MODEL = "en-us (PocketSphinx 5, 16 kHz, trigram)"
LANGUAGE = "en-US"

# The mean cepstrum of the sample calls and the development sentences. Partials are
# normalised by a running mean; beginning with a likely one makes the first sentence
# as good as the later ones.
_CEPSTRAL_MEAN = "51.7,15.9,-19.9,18.4,-1.5,-35.7,12.3,-46.9,-32.0,-11.2,-31.4,8.6,-21.6"
_FRAME_MS = 10
# Feed the decoder in steps; a step is also how long a stop can be delayed.
_STEP_BYTES = 6400

# What one word of a matched hint with boost 1 is worth against the decoder's own score,
# in nats. In the handful of cases looked at, the right word and the one taken for it were
# 9 to 32 apart: a plain hint (boost 1) settles most of these, boost 3 all.
_HINT_NATS = 30.0
# Alternatives looked at for hints.
_ALTERNATIVES = 150
# A hypothesis' log score in the decoder's units is scaled down by 2^10; see
# SENSCR_SHIFT in PocketSphinx's hmm.h.
_SCORE_SCALE = 1024.0

_FILLER = ("<s>", "</s>", "<sil>", "[NOISE]", "[SPEECH]", "<unk>", "[COUGH]", "[SMACK]", "[UH]", "[UM]")


@dataclass
class HeardWord:
    """A word with its times and, where known, how sure it is (0 to 1)."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float | None


@dataclass
class Heard:
    """What a stretch of speech was taken for. `text` is empty for noise."""

    text: str = ""
    confidence: float | None = None
    words: list[HeardWord] = field(default_factory=list)


class DecodeFailed(Exception):
    """PocketSphinx gave up on a stretch; the decoder is usable for the next."""


class Decoder:
    """Decodes one stretch of speech at a time: `begin`, `push` …, `partial`, `end`."""

    def __init__(self):
        self._ps = pocketsphinx.Decoder(loglevel="FATAL", cmninit=_CEPSTRAL_MEAN, topn=8)
        self._search = self._ps.current_search()
        self._hints = []
        self._partials = False
        self._pcm = []
        self._open = False

    def reset(self, hints, partials):
        """For a new call: forgets everything heard. `hints` is [(words, boost)]."""
        self.abandon()
        self._ps.set_cmn(_CEPSTRAL_MEAN)
        self._hints = hints
        self._partials = partials

    def knows(self, word):
        """Whether the dictionary has a pronunciation for `word` (lower case)."""
        return self._ps.lookup_word(word) is not None

    def begin(self):
        """A stretch of speech begins."""
        self.abandon()
        if self._partials:
            self._guard(self._ps.start_utt)
            self._open = True

    def push(self, samples):
        """The next samples of the stretch, 16 kHz float32 with 16-bit range."""
        data = to_pcm(samples)
        self._pcm.append(data)
        if self._partials:
            for offset in range(0, len(data), _STEP_BYTES):
                self._guard(self._ps.process_raw, data[offset:offset + _STEP_BYTES])

    def partial(self):
        """The text so far; empty when nothing is likely yet."""
        if not self._partials:
            return ""
        hypothesis = self._guard(self._ps.hyp)
        return _plain(hypothesis.hypstr) if hypothesis else ""

    def end(self):
        """The stretch is over; what it was.

        The whole stretch is decoded anew, normalised by its own mean. With the running
        mean of the first pass the result depends on what was heard before: 2 to 12 % word
        errors on the development sentences, by the mean it began with, against 2 % now.
        """
        if self._open:
            self._open = False
            self._guard(self._ps.end_utt)
        self._guard(self._ps.start_utt)
        self._open = True
        self._guard(self._ps.process_raw, b"".join(self._pcm), False, True)
        self._open = False
        self._guard(self._ps.end_utt)
        best = self._guard(self._ps.hyp)
        heard = self._heard(best) if best else Heard()
        if self._hints and best:
            heard = self._with_hints(heard)
        self._pcm = []
        return heard

    def abandon(self):
        """Drops the stretch that is under way, if any."""
        self._pcm = []
        if self._open:
            self._open = False
            try:
                self._ps.end_utt()
            except RuntimeError:
                pass  # It is being thrown away; the next start_utt tells if it is broken.

    def _guard(self, call, *arguments):
        try:
            return call(*arguments)
        except RuntimeError as error:
            self._open = False
            raise DecodeFailed(str(error)) from error

    def _heard(self, best):
        words = self._words()
        known = [word.confidence for word in words if word.confidence is not None]
        sure = sum(known) / len(known) if known else None
        return Heard(_plain(best.hypstr), sure, words)

    def _words(self, posteriors=True):
        words = []
        for part in self._ps.seg() or []:
            text = _plain(part.word)
            if part.word in _FILLER or not text:
                continue
            sure = min(1.0, max(0.0, part.prob)) if posteriors else None
            words.append(HeardWord(text, part.start_frame * _FRAME_MS, (part.end_frame + 1) * _FRAME_MS, sure))
        return words

    def _with_hints(self, heard):
        """The best of the decoder's own alternatives once hinted words count for more.

        Only what the decoder itself held possible can win, so that a hint never puts
        words into a mouth. The words' times come from aligning the text that won.
        """
        chosen, top = heard.text, None
        for alternative in itertools.islice(self._ps.nbest(), _ALTERNATIVES):
            if alternative is None or alternative.score <= 0:
                continue
            text = _plain(alternative.hypstr)
            score = math.log(alternative.score) * _SCORE_SCALE + self._hint_score(text)
            if top is None:
                # The decoder's own best is not always in the list; it is worth at
                # least what the list's best is before hints.
                top = math.log(alternative.score) * _SCORE_SCALE + self._hint_score(heard.text)
            if score > top:
                chosen, top = text, score
        return heard if chosen == heard.text else self._aligned(chosen) or heard

    def _hint_score(self, text):
        padded = f" {text} "
        return sum(
            _HINT_NATS * boost * len(words) for words, boost in self._hints if f" {' '.join(words)} " in padded
        )

    def _aligned(self, text):
        """`text` with times from a forced alignment, or None when it does not fit."""
        try:
            self._ps.set_align_text(text)
            self._ps.start_utt()
            self._ps.process_raw(b"".join(self._pcm), full_utt=True)
            self._ps.end_utt()
            words = self._words(posteriors=False)
        except RuntimeError:
            return None
        finally:
            self._ps.activate_search(self._search)
        return Heard(text, None, words) if " ".join(word.text for word in words) == text else None


def _plain(text):
    """Without the marks of alternative pronunciations: "invoice(2)" → "invoice"."""
    return " ".join(word.split("(")[0] for word in text.split())

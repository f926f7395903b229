/**
 * Level envelope of a WAV stream, computed while it arrives: an hour of talk needs a few kilobytes,
 * not the file. Linear PCM of 16 bits, one or two channels; anything else is reported as such.
 */

export interface Envelope {
  channels: number;
  /** Length of the audio in ms, by the data chunk. */
  duration_ms: number;
  /** Per channel, peak 0–1 of each of `BUCKETS` equal slices of the whole. */
  peaks: Float32Array[];
  /** Slices that are complete. */
  filled: number;
}

export const BUCKETS = 800;

export class UnsupportedAudio extends Error {}

interface Layout {
  channels: number;
  rate_hz: number;
  frames: number;
}

export class EnvelopeReader {
  #head = new Uint8Array(0);
  #layout: Layout | null = null;
  #rest = new Uint8Array(0);
  #frame = 0;
  envelope: Envelope | null = null;

  /** Feeds bytes; throws `UnsupportedAudio`. `total_bytes` bounds a data chunk of unknown size. */
  push(bytes: Uint8Array, total_bytes: number): void {
    let data = bytes;
    if (!this.#layout) {
      this.#head = concat(this.#head, bytes);
      const found = parseHeader(this.#head, total_bytes);
      if (!found) {
        if (this.#head.length > 1_000_000) throw new UnsupportedAudio('no data chunk');
        return;
      }
      this.#layout = found.layout;
      data = this.#head.subarray(found.data_at);
      this.#head = new Uint8Array(0);
      this.envelope = {
        channels: found.layout.channels,
        duration_ms: (found.layout.frames / found.layout.rate_hz) * 1000,
        peaks: Array.from({ length: found.layout.channels }, () => new Float32Array(BUCKETS)),
        filled: 0,
      };
    }
    this.#samples(concat(this.#rest, data), this.#layout);
  }

  #samples(data: Uint8Array, layout: Layout): void {
    const envelope = this.envelope;
    if (!envelope) return;
    const size = layout.channels * 2;
    const frames = Math.min(Math.floor(data.length / size), layout.frames - this.#frame);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    for (let i = 0; i < frames; i += 1) {
      const bucket = Math.min(BUCKETS - 1, Math.floor((this.#frame * BUCKETS) / layout.frames));
      for (let channel = 0; channel < layout.channels; channel += 1) {
        const level = Math.abs(view.getInt16(i * size + channel * 2, true)) / 32768;
        const peaks = envelope.peaks[channel];
        if (peaks && level > (peaks[bucket] ?? 0)) peaks[bucket] = level;
      }
      this.#frame += 1;
      envelope.filled = bucket;
    }
    this.#rest = data.slice(frames * size, frames * size + size);
    if (this.#frame >= layout.frames) envelope.filled = BUCKETS;
  }
}

function parseHeader(head: Uint8Array, total_bytes: number): { layout: Layout; data_at: number } | null {
  if (head.length < 12) return null;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const tag = (at: number): string => String.fromCharCode(...head.subarray(at, at + 4));
  if (tag(0) !== 'RIFF' || tag(8) !== 'WAVE') throw new UnsupportedAudio('not a WAV file');
  let format: { channels: number; rate_hz: number } | null = null;
  for (let at = 12; at + 8 <= head.length; ) {
    const size = view.getUint32(at + 4, true);
    if (tag(at) === 'data') {
      if (!format) throw new UnsupportedAudio('no format chunk');
      const known = size > 0 && size < 0xffff_ff00 ? size : Math.max(0, total_bytes - at - 8);
      const bytes = total_bytes > 0 ? Math.min(known, total_bytes - at - 8) : known;
      const frames = Math.floor(bytes / (format.channels * 2));
      return { layout: { ...format, frames: Math.max(1, frames) }, data_at: at + 8 };
    }
    if (tag(at) === 'fmt ') {
      if (at + 24 > head.length) return null;
      const kind = view.getUint16(at + 8, true);
      const channels = view.getUint16(at + 10, true);
      const bits = view.getUint16(at + 22, true);
      if ((kind !== 1 && kind !== 0xfffe) || bits !== 16 || channels < 1 || channels > 2) {
        throw new UnsupportedAudio(`format ${kind}, ${bits} bits, ${channels} channels`);
      }
      format = { channels, rate_hz: view.getUint32(at + 12, true) };
    }
    at += 8 + size + (size % 2);
  }
  return null;
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}

/** Reads the envelope of a recording; `progress` is called as it grows. */
export async function readEnvelope(
  url: string,
  progress: (envelope: Envelope) => void,
  signal: AbortSignal,
): Promise<void> {
  const response = await fetch(url, { signal, priority: 'low' } as RequestInit);
  if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
  const total = Number(response.headers.get('content-length')) || 0;
  const reader = response.body.getReader();
  const envelope = new EnvelopeReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    envelope.push(value, total);
    if (envelope.envelope) progress(envelope.envelope);
  }
}

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { counters, judge, mos, type Counters } from '../agent/audio/quality';
import { Lines } from '../agent/lines.svelte';
import { Notes } from '../agent/notes.svelte';
import { de } from '../shared/i18n/de';
import { en } from '../shared/i18n/en';
import type { CommandResult, LiveQueue } from '../shared/protocol/types';
import { BUCKETS, EnvelopeReader, UnsupportedAudio } from '../shared/record/wav';
import { queueLevel, serviceLevel, waitLevel } from '../supervisor/levels';

describe('catalogues', () => {
  it('have the same place-holders in every language', () => {
    const holes = (text: string): string[] => (text.match(/\{\w+\}/g) ?? []).sort();
    for (const key of Object.keys(en) as (keyof typeof en)[]) {
      expect(holes(de[key]), key).toEqual(holes(en[key]));
      expect(de[key].trim(), key).not.toBe('');
    }
  });
});

describe('notes', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('are saved once after typing pauses', async () => {
    const save = vi.fn(async (): Promise<CommandResult> => ({ ok: true }));
    const notes = new Notes(save);
    notes.follow('c1', '');
    for (const text of ['h', 'he', 'hello']) notes.type(text);
    expect(notes.status.kind).toBe('saving');
    await vi.advanceTimersByTimeAsync(600);
    expect(save.mock.calls).toEqual([['c1', 'hello']]);
    expect(notes.status.kind).toBe('saved');
  });

  it('stay on the page when saving fails, and are tried again', async () => {
    const answers: CommandResult[] = [{ ok: false, message: 'no journal' }, { ok: true }];
    const save = vi.fn(async () => answers.shift() ?? { ok: true });
    const notes = new Notes(save);
    notes.follow('c1', '');
    notes.type('kept');
    await vi.advanceTimersByTimeAsync(600);
    expect(notes.status).toEqual({ kind: 'unsaved', detail: 'no journal' });
    notes.follow('c1', 'text of another tab');
    expect(notes.text).toBe('kept');
    await vi.advanceTimersByTimeAsync(3_100);
    expect(notes.status.kind).toBe('saved');
    expect(save).toHaveBeenCalledTimes(2);
  });

  it('take over what another tab wrote while nothing here is unsaved', () => {
    const notes = new Notes(async () => ({ ok: true }));
    notes.follow('c1', 'first');
    notes.follow('c1', 'second');
    expect(notes.text).toBe('second');
  });
});

describe('live transcript', () => {
  const event = { call_id: 'c1', channel: 'caller' as const, start_ms: 1_000, end_ms: 2_000, text: 'hello', final: true };

  it('replaces the unfinished line, ignores repeats and other calls, and tells the lag', () => {
    const lines = new Lines();
    lines.follow('c1');
    lines.take({ ...event, text: 'hel', final: false }, 10_000, 12_500);
    expect(lines.all.map((line) => line.text)).toEqual(['hel']);
    expect(lines.lag_ms).toBe(500);
    lines.take(event, 10_000, 13_000);
    lines.take(event, 10_000, 13_000);
    lines.take({ ...event, call_id: 'c2' }, 10_000, 13_000);
    lines.take({ ...event, channel: 'agent', start_ms: 200, text: 'support' }, 10_000, 13_000);
    expect(lines.all.map((line) => line.text)).toEqual(['support', 'hello']);
    lines.follow('c2');
    expect(lines.all).toEqual([]);
  });
});

describe('quality in words', () => {
  const base: Counters = { at_ms: 0, received: 0, lost: 0, jitter_ms: 2, round_trip_ms: 20, lost_out: 0 };
  const after = (more: Partial<Counters>): Counters => ({ ...base, at_ms: 1_000, received: 50, ...more });

  it('names grade and cause', () => {
    expect(judge(null, base).grade).toBe('measuring');
    expect(judge(base, after({})).grade).toBe('excellent');
    expect(judge(base, after({ received: 0 })).grade).toBe('silent');
    expect(judge(base, after({ received: 45, lost: 5 }))).toMatchObject({ grade: 'poor', cause: 'loss', value: 10 });
    expect(judge(base, after({ lost_out: 0.03 }))).toMatchObject({ cause: 'loss', value: 3 });
    expect(judge(base, after({ jitter_ms: 60 }))).toMatchObject({ cause: 'jitter', value: 60 });
    expect(judge(base, after({ round_trip_ms: 700 }))).toMatchObject({ cause: 'delay', grade: 'poor' });
  });

  it('falls with loss and delay and stays within 1 to 4.41', () => {
    expect(mos(0, 0)).toBeCloseTo(4.41, 2);
    expect(mos(100, 0.05)).toBeLessThan(mos(100, 0.01));
    expect(mos(5_000, 1)).toBeGreaterThanOrEqual(1);
  });

  it('reads the standard statistics', () => {
    const report = new Map<string, object>([
      ['a', { type: 'inbound-rtp', kind: 'audio', timestamp: 5, packetsReceived: 10, packetsLost: 1, jitter: 0.004 }],
      ['b', { type: 'remote-inbound-rtp', fractionLost: 0.02, roundTripTime: 0.09 }],
      ['c', { type: 'candidate-pair', nominated: true, currentRoundTripTime: 0.03 }],
    ]);
    expect(counters(report as unknown as RTCStatsReport)).toEqual({ at_ms: 5, received: 10, lost: 1, jitter_ms: 4, round_trip_ms: 30, lost_out: 0.02 });
  });
});

describe('waveform', () => {
  /** Left channel loud in the first half, right channel in the second. */
  function wav(frames: number, bits = 16): Uint8Array {
    const bytes = new Uint8Array(44 + frames * 4);
    const view = new DataView(bytes.buffer);
    const text = (at: number, value: string): void => [...value].forEach((char, i) => (bytes[at + i] = char.charCodeAt(0)));
    text(0, 'RIFF');
    text(8, 'WAVEfmt ');
    view.setUint32(16, 16, true);
    view.setUint16(20, 1, true);
    view.setUint16(22, 2, true);
    view.setUint32(24, 8_000, true);
    view.setUint16(34, bits, true);
    text(36, 'data');
    view.setUint32(40, frames * 4, true);
    for (let i = 0; i < frames; i += 1) {
      view.setInt16(44 + i * 4, i < frames / 2 ? -16_384 : 0, true);
      view.setInt16(46 + i * 4, i < frames / 2 ? 0 : 8_192, true);
    }
    return bytes;
  }

  it.each([1, 7, 43, 45, 1_000, 100_000])('finds the same levels in pieces of %i bytes', (size) => {
    const bytes = wav(8_000);
    const reader = new EnvelopeReader();
    for (let at = 0; at < bytes.length; at += size) reader.push(bytes.subarray(at, at + size), bytes.length);
    const envelope = reader.envelope;
    expect(envelope?.duration_ms).toBe(1_000);
    expect(envelope?.filled).toBe(BUCKETS);
    const [left, right] = envelope?.peaks ?? [];
    expect([left?.[0], left?.[BUCKETS - 1], right?.[0], right?.[BUCKETS - 1]]).toEqual([0.5, 0, 0, 0.25]);
  });

  it('says so when the format is another one', () => {
    expect(() => new EnvelopeReader().push(wav(10, 8), 84)).toThrow(UnsupportedAudio);
    expect(() => new EnvelopeReader().push(new Uint8Array(64), 64)).toThrow(UnsupportedAudio);
  });
});

describe('wallboard levels', () => {
  const queue = { waiting: 1, oldest_entered_ms: 0, service_level_target_s: 20, service_level: 0.9, agents_ready: 1, agents_busy: 0 } as LiveQueue;

  it('judge wait, service level, and a queue without anybody', () => {
    expect([5_000, 11_000, 20_001].map((now) => waitLevel(queue, now))).toEqual(['ok', 'warn', 'crit']);
    expect([null, 0.95, 0.75, 0.5].map(serviceLevel)).toEqual(['idle', 'ok', 'warn', 'crit']);
    expect(queueLevel({ ...queue, agents_ready: 0 }, 1_000)).toBe('crit');
    expect(queueLevel({ ...queue, waiting: 0 }, 99_000)).toBe('ok');
  });
});

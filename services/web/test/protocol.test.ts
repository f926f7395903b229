import { describe, expect, it, vi } from 'vitest';
import { backoffDelay } from '../shared/protocol/backoff';
import { ServerClock } from '../shared/protocol/clock';
import { EventParser, LiveStream, type LiveStatus } from '../shared/protocol/live';
import { mergePatch } from '../shared/protocol/merge';
import type { LiveSnapshot } from '../shared/protocol/types';
import { duration, remaining } from '../shared/time';

describe('merge patch (RFC 7396, appendix A)', () => {
  it.each([
    [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
    [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
    [{ a: 'b' }, { a: null }, {}],
    [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }],
    [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
    [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
    [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
    [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
    [['a', 'b'], ['c', 'd'], ['c', 'd']],
    [{ a: 'b' }, ['c'], ['c']],
    [{ a: 'foo' }, null, null],
    [{ a: 'foo' }, 'bar', 'bar'],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [[1, 2], { a: 'b', c: null }, { a: 'b' }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ])('%j patched with %j is %j', (target, patch, expected) => {
    const before = JSON.stringify(target);
    expect(mergePatch(target, patch)).toEqual(expected);
    expect(JSON.stringify(target)).toBe(before);
  });

  it('never touches a prototype', () => {
    const out = mergePatch({}, JSON.parse('{"__proto__": {"polluted": true}, "a": 1}'));
    expect(out).toEqual({ a: 1 });
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });
});

describe('server clock', () => {
  it('trusts the sample with the shortest way', () => {
    let now = 1_000_000;
    const clock = new ServerClock(() => now);
    clock.sample(now + 5_000, now - 400); // 200 ms of error are possible here
    now += 1_000;
    clock.sample(now + 4_990, now - 20);
    expect(clock.offset_ms).toBe(5_000);
    now += 1_000;
    clock.sample(now + 4_000, now - 1_500);
    expect(clock.offset_ms).toBe(5_000);
  });

  it('follows at once when a clock jumps, and ignores nonsense', () => {
    let now = 1_000_000;
    const clock = new ServerClock(() => now);
    clock.sample(now, now);
    clock.sample(Number.NaN);
    expect(clock.offset_ms).toBe(0);
    now += 60_000; // the machine slept
    clock.sample(now + 3_600_000, now - 10);
    expect(clock.offset_ms).toBe(3_600_005);
  });
});

describe('back-off', () => {
  it('doubles, is capped, and begins at a tenth of the window', () => {
    expect(backoffDelay(0, () => 0)).toBe(150);
    expect(backoffDelay(0, () => 1)).toBe(1_500);
    expect(backoffDelay(2, () => 1)).toBe(6_000);
    expect(backoffDelay(1_000, () => 1)).toBe(12_000);
    expect(backoffDelay(1_000, () => 0)).toBe(1_200);
  });

  it('spreads many pages over the window', () => {
    const delays = Array.from({ length: 2_000 }, () => backoffDelay(0));
    for (let from = 200; from < 1_500; from += 100) {
      const share = delays.filter((delay) => delay >= from && delay < from + 100).length / delays.length;
      expect(share).toBeLessThan(0.12);
    }
  });
});

describe('times', () => {
  it('shows durations as people read them', () => {
    expect([0, 999, 61_000, 3_723_000, -5, null].map(duration)).toEqual(['0:00', '0:00', '1:01', '1:02:03', '0:00', '0:00']);
  });

  it('counts down to 0 exactly at the end', () => {
    expect(remaining(10_000, 0)).toBe(10);
    expect(remaining(10_000, 9_001)).toBe(1);
    expect(remaining(10_000, 10_000)).toBe(0);
    expect(remaining(10_000, 99_000)).toBe(0);
  });
});

describe('live stream', () => {
  it('puts events together wherever the bytes are cut', () => {
    const text = ': keep-alive\n\nevent: live\ndata: {"a":\ndata: 1}\n\nevent: other\r\ndata: x\r\n\r\n';
    for (let cut = 0; cut <= text.length; cut += 1) {
      const parser = new EventParser();
      const events = [...parser.push(text.slice(0, cut)), ...parser.push(text.slice(cut))];
      expect(events, `cut at ${cut}`).toEqual([
        { event: 'live', data: '{"a":\n1}' },
        { event: 'other', data: 'x' },
      ]);
    }
  });

  it('connects again when the stream ends, and stops when refused', async () => {
    vi.useFakeTimers();
    const body = 'event: live\ndata: {"at_ms": 7}\n\n';
    const answers = [new Response(body), new Response('', { status: 503 }), new Response('', { status: 403 })];
    const got: LiveSnapshot[] = [];
    const statuses: LiveStatus[] = [];
    const fetcher = vi.fn(async () => answers.shift() ?? new Response('', { status: 403 }));
    const stream = new LiveStream('/live', { live: (snapshot) => got.push(snapshot), status: (status) => statuses.push(status) }, fetcher as unknown as typeof fetch);
    const done = stream.run();
    await vi.advanceTimersByTimeAsync(30_000);
    await done;
    vi.useRealTimers();
    expect(fetcher).toHaveBeenCalledTimes(3);
    expect(got).toEqual([{ at_ms: 7 }]);
    expect(statuses.map((status) => status.kind)).toEqual(['connecting', 'open', 'waiting', 'connecting', 'waiting', 'connecting', 'refused']);
  });

  it('gives up a stream that is silent for longer than two keep-alives', async () => {
    vi.useFakeTimers();
    const fetcher = (_url: string, init: RequestInit): Promise<Response> =>
      new Promise((_, reject) => init.signal?.addEventListener('abort', () => reject(new DOMException('', 'AbortError'))));
    const statuses: string[] = [];
    const stream = new LiveStream('/live', { live: () => undefined, status: (status) => statuses.push(status.kind) }, fetcher as typeof fetch);
    void stream.run();
    await vi.advanceTimersByTimeAsync(37_000);
    stream.stop();
    vi.useRealTimers();
    expect(statuses.slice(0, 3)).toEqual(['connecting', 'waiting', 'connecting']);
  });
});

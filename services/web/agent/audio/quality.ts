/**
 * Quality in words from WebRTC statistics. The score is the E-model of ITU-T G.107 in its common
 * simplification (G.711 with loss concealment, Ie 0, Bpl 25.1; delay after Cole and Rosenbluth).
 */

/** Counters at one instant, cumulative since the connection began. */
export interface Counters {
  at_ms: number;
  received: number;
  lost: number;
  jitter_ms: number;
  round_trip_ms: number | null;
  /** Share of our packets lost on the way out, 0–1, by the other side's report. */
  lost_out: number | null;
}

export type Grade = 'measuring' | 'excellent' | 'good' | 'fair' | 'poor' | 'silent';
export type Cause = 'fine' | 'loss' | 'jitter' | 'delay';

export interface Quality {
  grade: Grade;
  cause: Cause;
  /** Per cent for loss, milliseconds for jitter and delay. */
  value: number;
  mos: number | null;
}

export const MEASURING: Quality = { grade: 'measuring', cause: 'fine', value: 0, mos: null };

/** Mean opinion score, 1–4.41, for a one-way delay in ms and a loss share 0–1. */
export function mos(delay_ms: number, loss: number): number {
  const id = 0.024 * delay_ms + (delay_ms > 177.3 ? 0.11 * (delay_ms - 177.3) : 0);
  const percent = loss * 100;
  const ie = (95 * percent) / (percent + 25.1);
  const r = Math.min(93.2, Math.max(0, 93.2 - id - ie));
  return 1 + 0.035 * r + 7e-6 * r * (r - 60) * (100 - r);
}

/** What happened between two readings. */
export function judge(before: Counters | null, now: Counters): Quality {
  if (!before || now.at_ms <= before.at_ms) return MEASURING;
  const received = Math.max(0, now.received - before.received);
  const lost = Math.max(0, now.lost - before.lost);
  if (received === 0) return { grade: 'silent', cause: 'loss', value: 100, mos: null };
  const loss_in = lost / (received + lost);
  const loss = Math.max(loss_in, now.lost_out ?? 0);
  // One way: half the round trip, a jitter buffer of twice the jitter, and the packet itself.
  const delay_ms = (now.round_trip_ms ?? 0) / 2 + 2 * now.jitter_ms + 20;
  const score = mos(delay_ms, loss);
  const grade: Grade = score >= 4.2 ? 'excellent' : score >= 3.9 ? 'good' : score >= 3.4 ? 'fair' : 'poor';
  return { grade, ...cause(loss, now.jitter_ms, now.round_trip_ms ?? 0), mos: score };
}

function cause(loss: number, jitter_ms: number, round_trip_ms: number): { cause: Cause; value: number } {
  if (loss >= 0.01) return { cause: 'loss', value: Math.round(loss * 1000) / 10 };
  if (jitter_ms >= 25) return { cause: 'jitter', value: Math.round(jitter_ms) };
  if (round_trip_ms >= 250) return { cause: 'delay', value: Math.round(round_trip_ms) };
  return { cause: 'fine', value: 0 };
}

/** Reads the counters out of a statistics report. */
export function counters(report: RTCStatsReport): Counters | null {
  let found: Counters | null = null;
  let round_trip_ms: number | null = null;
  let lost_out: number | null = null;
  report.forEach((entry: Record<string, unknown> & { type: string }) => {
    const number = (key: string): number => (typeof entry[key] === 'number' ? (entry[key] as number) : 0);
    if (entry.type === 'inbound-rtp' && entry['kind'] === 'audio') {
      found = {
        at_ms: number('timestamp'),
        received: number('packetsReceived'),
        lost: number('packetsLost'),
        jitter_ms: number('jitter') * 1000,
        round_trip_ms: null,
        lost_out: null,
      };
    } else if (entry.type === 'remote-inbound-rtp' && typeof entry['fractionLost'] === 'number') {
      lost_out = entry['fractionLost'] as number;
      if (typeof entry['roundTripTime'] === 'number') round_trip_ms ??= number('roundTripTime') * 1000;
    } else if (entry.type === 'candidate-pair' && entry['nominated'] === true) {
      if (typeof entry['currentRoundTripTime'] === 'number') round_trip_ms = number('currentRoundTripTime') * 1000;
    }
  });
  return found === null ? null : { ...(found as Counters), round_trip_ms, lost_out };
}

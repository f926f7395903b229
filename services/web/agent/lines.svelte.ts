/** The live transcript of the call at hand: final lines and one unfinished line a channel. */
import type { Channel, TranscriptEvent } from '../shared/protocol/types';

export interface Line {
  channel: Channel;
  start_ms: number;
  end_ms: number;
  text: string;
  final: boolean;
}

/** More than eight hours of talk; older lines are in the record. */
const MAX_LINES = 4_000;

export class Lines {
  call_id = $state<string | null>(null);
  done = $state.raw<Line[]>([]);
  partial = $state.raw<Partial<Record<Channel, Line>>>({});
  /** How far the newest words are behind the speech, ms; null before the first. */
  lag_ms = $state<number | null>(null);

  /** Keeps the lines of one call only. */
  follow(call_id: string | null): void {
    if (call_id === null || call_id === this.call_id) return;
    this.call_id = call_id;
    this.done = [];
    this.partial = {};
    this.lag_ms = null;
  }

  restore(call_id: string, lines: Line[]): void {
    this.call_id = call_id;
    this.done = lines.slice(-MAX_LINES);
  }

  take(event: TranscriptEvent, connected_ms: number | null, now_ms: number): void {
    if (event.call_id !== this.call_id) return;
    const { channel, start_ms, end_ms, text, final } = event;
    const line: Line = { channel, start_ms, end_ms, text, final };
    if (connected_ms !== null) this.lag_ms = Math.max(0, now_ms - (connected_ms + end_ms));
    if (final) {
      const rest = { ...this.partial };
      delete rest[channel];
      this.partial = rest;
      if (!text.trim()) return;
      // A resumed connection may repeat a line; its place in time tells.
      if (this.done.some((old) => old.channel === channel && old.start_ms === start_ms)) return;
      this.done = [...this.done, line].sort((a, b) => a.start_ms - b.start_ms).slice(-MAX_LINES);
    } else this.partial = { ...this.partial, [channel]: line };
  }

  get all(): Line[] {
    return [...this.done, ...Object.values(this.partial)].sort((a, b) => a.start_ms - b.start_ms);
  }
}

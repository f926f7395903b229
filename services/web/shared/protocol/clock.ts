/**
 * The server's clock as seen from here. The page's own clock may be wrong by hours; timers that an
 * agent and a supervisor both look at must agree, so every timer counts from the server's instants.
 */

interface Sample {
  offset_ms: number;
  round_trip_ms: number;
}

/** Samples kept; the one with the shortest round trip has the smallest error. */
const WINDOW = 8;
/** A jump beyond this is a clock that was set or a machine that slept, not network noise. */
const JUMP_MS = 2_000;

/** A monotonic local clock in epoch milliseconds: it does not move when somebody sets the time. */
export const localNow = (): number => performance.timeOrigin + performance.now();

export class ServerClock {
  #samples: Sample[] = [];
  #offset = 0;
  readonly #now: () => number;

  constructor(now: () => number = localNow) {
    this.#now = now;
  }

  /** Server time in ms since the Unix epoch; local time until the first sample. */
  now(): number {
    return this.#now() + this.#offset;
  }

  get offset_ms(): number {
    return this.#offset;
  }

  /**
   * Takes in a server instant that was received now. `sent_ms` is the local instant of the question
   * (half the round trip is then taken off); without it the instant came unasked, and counts only
   * until a measured one exists or when it shows that a clock has jumped.
   */
  sample(server_ms: number, sent_ms?: number): void {
    if (!Number.isFinite(server_ms)) return;
    const received = this.#now();
    const round_trip_ms = sent_ms === undefined ? Infinity : Math.max(0, received - sent_ms);
    const travel = sent_ms === undefined ? 0 : round_trip_ms / 2;
    const sample = { offset_ms: server_ms + travel - received, round_trip_ms };
    const slack = Number.isFinite(round_trip_ms) ? round_trip_ms : 1_000;
    if (this.#samples.length > 0 && Math.abs(sample.offset_ms - this.#offset) > JUMP_MS + slack) {
      this.#samples = [];
    }
    this.#samples.push(sample);
    if (this.#samples.length > WINDOW) this.#samples.shift();
    this.#offset = this.#samples.reduce((best, next) =>
      next.round_trip_ms <= best.round_trip_ms ? next : best,
    ).offset_ms;
  }
}

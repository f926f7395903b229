/**
 * Jittered back-off: a console that dies, or comes back, must not send all of its agents to one place in
 * the same instant. The delay is drawn evenly from a tenth of a doubling window up to all of it.
 */
export function backoffDelay(
  attempt: number,
  random: () => number = Math.random,
  base_ms = 1_500,
  cap_ms = 12_000,
): number {
  const window = Math.min(cap_ms, base_ms * 2 ** Math.min(Math.max(attempt, 0), 20));
  return Math.round(window * (0.1 + 0.9 * random()));
}

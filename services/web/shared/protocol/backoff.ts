/**
 * Jittered back-off: a console that comes back must not meet all of its agents in the same instant.
 * The delay is drawn evenly from the half-open upper part of a doubling window.
 */
export function backoffDelay(
  attempt: number,
  random: () => number = Math.random,
  base_ms = 500,
  cap_ms = 10_000,
): number {
  const window = Math.min(cap_ms, base_ms * 2 ** Math.min(Math.max(attempt, 0), 20));
  return Math.round(window * (0.25 + 0.75 * random()));
}

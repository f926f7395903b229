/** Durations and instants as people read them; 24 hours, as shift plans are written. */

/** `1:05`, `12:00`, `1:02:03`; negative durations count as zero. */
export function duration(ms: number | null | undefined): string {
  const total = Math.max(0, Math.floor((ms ?? 0) / 1000));
  const s = String(total % 60).padStart(2, '0');
  const m = Math.floor(total / 60) % 60;
  const h = Math.floor(total / 3600);
  return h > 0 ? `${h}:${String(m).padStart(2, '0')}:${s}` : `${m}:${s}`;
}

/** Seconds as a count-down shows them: rounded up, so that it ends when it says 0. */
export function remaining(until_ms: number, now_ms: number): number {
  return Math.max(0, Math.ceil((until_ms - now_ms) / 1000));
}

const formats = new Map<string, Intl.DateTimeFormat>();

function format(locale: string, kind: 'time' | 'clock' | 'dateTime'): Intl.DateTimeFormat {
  const key = `${locale}/${kind}`;
  let made = formats.get(key);
  if (!made) {
    const clock = { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' } as const;
    made = new Intl.DateTimeFormat(
      locale,
      kind === 'clock'
        ? { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }
        : kind === 'time'
          ? clock
          : { day: '2-digit', month: 'short', ...clock },
    );
    formats.set(key, made);
  }
  return made;
}

export const clockTime = (ms: number, locale: string): string => format(locale, 'clock').format(ms);
export const timeOfDay = (ms: number, locale: string): string => format(locale, 'time').format(ms);
export const dateTime = (ms: number, locale: string): string => format(locale, 'dateTime').format(ms);

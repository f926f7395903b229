import type { Snapshot } from './types';

/**
 * Fills what a snapshot may leave out. Merge patches remove what becomes null, so a missing field and
 * a null one mean the same; the rest of the client sees every field.
 */
export function readSnapshot(state: unknown): Snapshot {
  const raw = (typeof state === 'object' && state !== null ? state : {}) as Partial<Snapshot>;
  const call = raw.call ?? null;
  return {
    server_ms: raw.server_ms ?? 0,
    state: raw.state ?? 'signed_out',
    reason: raw.reason ?? null,
    since_ms: raw.since_ms ?? 0,
    until_ms: raw.until_ms ?? null,
    call: call && {
      ...call,
      caller_name: call.caller_name ?? '',
      caller_number: call.caller_number ?? '',
      dialled: call.dialled ?? '',
      queue_name: call.queue_name ?? call.queue_id ?? '',
      attributes: call.attributes ?? {},
      connected_ms: call.connected_ms ?? null,
      on_hold: call.on_hold ?? false,
      muted: call.muted ?? false,
      caller_held: call.caller_held ?? false,
      recording: call.recording ?? 'off',
      notes: call.notes ?? '',
      disposition_required: call.disposition_required ?? false,
      dispositions: call.dispositions ?? [],
      consulted_by: call.consulted_by ?? null,
      consultation: call.consultation ?? null,
      media_generation: call.media_generation ?? 0,
    },
    next: raw.next ?? null,
    microphone: raw.microphone ?? null,
    sessions: raw.sessions ?? [],
    queues: raw.queues ?? [],
  };
}

/**
 * The agent protocol `trunkline.v1` and the REST shapes, as the console publishes them
 * (`/api/v1/agent/protocol.json`, `/api/v1/openapi.json`). Times ending in `_ms` are milliseconds
 * since the Unix epoch by the server's clock unless a comment says otherwise.
 */

export const SUBPROTOCOL = 'trunkline.v1';

export type AgentState =
  | 'signed_out'
  | 'not_ready'
  | 'ready'
  | 'ringing'
  | 'connecting'
  | 'talking'
  | 'wrap_up';

export interface CallView {
  call_id: string;
  offer_id: string;
  queue_id: string;
  queue_name: string;
  caller_number: string;
  caller_name: string;
  dialled: string;
  attributes: Record<string, string>;
  entered_ms: number;
  connected_ms: number | null;
  on_hold: boolean;
  muted: boolean;
  recording: 'off' | 'on' | 'paused';
  caller_held: boolean;
  notes: string;
  disposition_required: boolean;
  dispositions: string[];
  /** The agent who has the caller and asks for this one; null = the caller waits alone. */
  consulted_by: string | null;
  consultation: ConsultationView | null;
  /** Moves of the call's audio to another media node so far. */
  media_generation: number;
}

/** A consultation of another agent, or by one. */
export interface ConsultationView {
  state: 'waiting' | 'with' | 'by' | 'failed';
  /** `waiting`: id of the queue; `with`, `by`: the other agent's name; `failed`: why, a word. */
  party: string;
}

export interface Snapshot {
  server_ms: number;
  state: AgentState;
  reason: string | null;
  since_ms: number;
  until_ms: number | null;
  call: CallView | null;
  next: { ready: boolean; reason: string | null } | null;
  microphone: string | null;
  sessions: string[];
  queues: string[];
}

export interface Welcome {
  session: string;
  resumed: boolean;
  server_ms: number;
  protocol: number;
  user: { name: string; display_name: string; agent_id: string | null; tenant: string; roles: string[] };
  not_ready_reasons: string[];
  /** Queues to which a caller can be passed on. */
  transfer_queues?: { id: string; name: string }[];
  keepalive_s: number;
  /** Origins of other consoles. */
  alternates?: string[];
  /** Lets this page in there. */
  ticket?: string;
}

export interface CommandResult {
  ok: boolean;
  error?: string;
  message?: string;
  sdp?: string;
}

export type Channel = 'caller' | 'agent';

export interface TranscriptEvent {
  call_id: string;
  channel: Channel;
  /** Milliseconds since the call was connected. */
  start_ms: number;
  end_ms: number;
  text: string;
  final: boolean;
}

/** Every command of an agent and what it carries. */
export interface Commands {
  ready: Record<string, never>;
  not_ready: { reason: string };
  next: { ready: boolean; reason?: string };
  sign_out: Record<string, never>;
  accept: { offer_id: string; sdp: string };
  decline: { offer_id: string };
  media_resume: { sdp: string; take_over: boolean };
  hold: { on: boolean };
  mute: { on: boolean };
  digits: { digits: string };
  transfer: { queue_id: string };
  consult: { queue_id: string };
  transfer_complete: Record<string, never>;
  consult_cancel: Record<string, never>;
  hang_up: Record<string, never>;
  pause_recording: { on: boolean };
  notes: { call_id: string; notes: string };
  wrap_up_finish: { disposition?: string; tags: string[]; notes?: string };
  wrap_up_extend: { seconds: number };
}

export interface ServerFrame {
  seq: number;
  type: string;
  data: unknown;
  re?: string;
}

export interface User {
  name: string;
  display_name: string;
  roles: string[];
  tenant: string;
  agent_id: string | null;
}

export interface ContactSummary {
  call_id: string;
  direction: string;
  caller_number: string;
  caller_name: string;
  dialled: string;
  started_ms: number;
  answered_ms: number | null;
  ended_ms: number | null;
  cause: string | null;
  ended_by: string | null;
  outcome: string;
  queue_id: string | null;
  agent_id: string | null;
  agent_name: string | null;
  wait_ms: number | null;
  talk_ms: number | null;
  hold_ms: number | null;
  wrap_up_ms: number | null;
  disposition: string | null;
  tags: string[];
  notes: string;
}

export interface Recording {
  recording_id: string;
  state: string;
  started_ms: number;
  duration_ms: number | null;
  size_bytes: number | null;
  sha256: string | null;
  /** Positions in the recording, milliseconds from its start. */
  holds: { start_ms: number; end_ms: number | null; reason: string }[];
  gaps: { start_ms: number; end_ms: number | null; reason?: string }[];
  /** Why it failed. */
  detail?: string;
  url: string;
}

export interface TranscriptSegment {
  recording_id?: string;
  channel: Channel;
  /** Milliseconds from the start of the recording. */
  start_ms: number;
  end_ms: number;
  text: string;
  confidence: number | null;
  /** True (or a reason) where the recogniser lagged and words are missing. */
  gap: boolean | string | null;
}

export interface Decision {
  at_ms: number;
  queue_id: string;
  offer_id: string | null;
  agent_id: string | null;
  outcome: string;
  explanation: {
    strategy: string;
    configuration_version: number | string;
    position: number | null;
    waiting: number | null;
    candidates_total: number | null;
    candidates: {
      agent_id: string;
      idle_since_ms: number | null;
      skill_level: number | null;
      score: number | null;
    }[];
    exclusions: { agent_id: string; reason: string }[];
  } | null;
}

export interface LegQuality {
  leg_id: string;
  packets_received: number;
  packets_lost: number;
  jitter_ms: number | null;
  round_trip_ms: number | null;
  mos: number | null;
  /** `received`: nothing came from the party; `sent`: nothing reached it; empty or absent: both ways. */
  missing?: string | null;
}

export interface Contact extends ContactSummary {
  recordings: Recording[];
  timeline: { at_ms: number; kind: string; text: string; attributes: Record<string, unknown> | null }[];
  transcript: TranscriptSegment[];
  transcript_status: string;
  /** How often an agent has passed the caller on. */
  transfers: number | null;
  transcript_detail: string | null;
  decisions: Decision[];
  quality: LegQuality[];
  trace_id: string | null;
  sip_call_id: string | null;
  /** Where else the call can be seen; null = not configured. A console of an older version sends none. */
  links?: { trace: string | null; logs: string | null; dashboard: string | null };
}

export interface LiveQueue {
  queue_id: string;
  name: string;
  waiting: number;
  oldest_entered_ms: number | null;
  offered: number;
  answered: number;
  answered_in_target: number;
  abandoned: number;
  short_abandoned: number;
  timed_out: number;
  refused: number;
  missed: number;
  service_level_target_s: number;
  /** Share 0–1, or null before the first call that counts. */
  service_level: number | null;
  asa_s: number | null;
  aht_s: number | null;
  abandonment_rate: number | null;
  agents_ready: number;
  agents_busy: number;
}

export interface LiveAgent {
  agent_id: string;
  name: string;
  state: AgentState;
  reason: string | null;
  since_ms: number;
  queue_id: string | null;
  call_id: string | null;
  handled: number;
  missed: number;
  talk_s: number;
  hold_s: number;
  wrap_up_s: number;
  idle_s: number;
  occupancy: number | null;
}

export interface LiveSnapshot {
  at_ms: number;
  calls_active: number;
  queues: LiveQueue[];
  agents: LiveAgent[];
}

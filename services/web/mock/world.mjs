// The contact centre behind the mock: one agent's state machine, contacts, live numbers. It speaks the
// agent protocol as the console does (sessions, seq, ack, resume, idempotent commands), small enough to
// read, and lets a test push it around (`ring`, `hangUp`, `say`).
import { randomUUID } from 'node:crypto';
import { Cluster } from './cluster.mjs';

const USERS = {
  alice: { display_name: 'Alice Ashford', roles: ['agent'], agent_id: 'alice' },
  bob: { display_name: 'Bob Brandt', roles: ['agent'], agent_id: 'bob' },
  sue: { display_name: 'Sue Sanders', roles: ['supervisor'], agent_id: null },
  adam: { display_name: 'Adam Abel', roles: ['admin'], agent_id: null },
};
const REASONS = ['break', 'lunch', 'training', 'meeting', 'back_office'];
const RING_MS = 20_000;
const CONSULT_MS = 400;
const WRAP_MS = 45_000;

export class World {
  agents = new Map();
  contacts = new Map();
  cluster = new Cluster();
  /** Set by the media page: answers an SDP offer. */
  answerer = null;
  liveListeners = new Set();

  user(name) {
    const user = USERS[name];
    return user ? { name, tenant: 'default', ...user } : null;
  }

  agent(name) {
    let agent = this.agents.get(name);
    if (!agent) this.agents.set(name, (agent = new Agent(this, this.user(name))));
    return agent;
  }

  live(now = Date.now()) {
    const queue = (queue_id, name, more) => ({
      queue_id, name, waiting: 0, oldest_entered_ms: null, offered: 0, answered: 0, answered_in_target: 0,
      abandoned: 0, short_abandoned: 0, timed_out: 0, refused: 0, missed: 0, service_level_target_s: 20,
      service_level: null, asa_s: null, aht_s: null, abandonment_rate: null, agents_ready: 0, agents_busy: 0, ...more,
    });
    const agent = (agent_id, name, state, ago_s, more = {}) => ({
      agent_id, name, state, reason: null, since_ms: now - ago_s * 1000, queue_id: null, call_id: null, handled: 14,
      missed: 0, talk_s: 3010, hold_s: 80, wrap_up_s: 540, idle_s: 1200, occupancy: 0.75, ...more,
    });
    const base = (this.base ??= now);
    const t = now - base;
    return {
      at_ms: now,
      calls_active: 7,
      queues: [
        queue('support', 'Support', { waiting: 3 + (Math.floor(t / 4000) % 3), oldest_entered_ms: base - 14_000, offered: 182, answered: 168 + Math.floor(t / 5000), answered_in_target: 141, abandoned: 9, short_abandoned: 3, missed: 2, service_level: 0.83, asa_s: 13.2, aht_s: 271, abandonment_rate: 0.049, agents_ready: 1, agents_busy: 4 }),
        queue('billing', 'Billing', { waiting: 6, oldest_entered_ms: base - 64_000, offered: 96, answered: 71, answered_in_target: 44, abandoned: 18, short_abandoned: 2, service_level: 0.51, asa_s: 38.9, aht_s: 342, abandonment_rate: 0.19, agents_ready: 0, agents_busy: 3 }),
        queue('sales', 'Sales', { offered: 41, answered: 40, answered_in_target: 40, abandoned: 1, service_level: 0.976, asa_s: 5.1, aht_s: 198, abandonment_rate: 0.024, agents_ready: 2, agents_busy: 0 }),
        queue('night', 'Night desk', {}),
      ],
      agents: [
        agent('alice', 'Alice Ashford', 'ready', 42), agent('carol', 'Carol <b>Chen</b>', 'ready', 8),
        agent('bob', 'Bob Brandt', 'talking', 201, { queue_id: 'support', call_id: 'c1' }),
        agent('dave', 'Dave Diaz', 'talking', 34, { queue_id: 'billing', call_id: 'c2', handled: 9 }),
        agent('erin', 'Erin Evans', 'wrap_up', 12, { queue_id: 'support' }), agent('finn', 'Finn Fischer', 'ringing', 4, { queue_id: 'support' }),
        agent('gita', 'Gita Gupta', 'not_ready', 640, { reason: 'lunch', missed: 2 }), agent('hugo', 'Hugo Hall', 'signed_out', 9999, { handled: 0, occupancy: null }),
      ],
    };
  }

  /** A finished contact with everything a record can show. */
  contact(call_id, more = {}) {
    const started_ms = Date.now() - 95_000;
    const answered_ms = started_ms + 21_000;
    const contact = {
      call_id, direction: 'inbound', caller_number: '+49 30 5550142', caller_name: 'Jana <i>Richter</i>', dialled: 'support',
      started_ms, answered_ms, ended_ms: answered_ms + 60_000, cause: 'normal_clearing', ended_by: 'caller', outcome: 'answered',
      queue_id: 'support', agent_id: 'alice', agent_name: 'Alice Ashford', wait_ms: 18_400, talk_ms: 54_000, hold_ms: 6_000,
      wrap_up_ms: 9_000, disposition: 'resolved', tags: ['router', 'follow-up'], notes: 'Router replaced under warranty.\nCalls back if the light stays red.',
      recordings: [{ recording_id: `r-${call_id}`, state: 'available', detail: '', started_ms: answered_ms, duration_ms: 60_000, size_bytes: 1_920_044, sha256: '9f2c4a0be1d7a5c36d2b8c1f0e5a97d3b6c48a2f7e1d0c9b8a7f6e5d4c3b2a10', holds: [{ start_ms: 30_000, end_ms: 36_000, reason: 'agent' }], gaps: [{ start_ms: 44_000, end_ms: 48_000, reason: 'paused' }], url: `/api/v1/recordings/r-${call_id}/audio` }],
      timeline: [
        { at_ms: started_ms, kind: 'invite', text: 'Call arrived for “support” by trunk “loopback”', attributes: null },
        { at_ms: started_ms + 2_600, kind: 'queued', text: 'Entered queue Support at place 3', attributes: null },
        { at_ms: started_ms + 17_500, kind: 'offered', text: 'Offered to Alice Ashford', attributes: null },
        { at_ms: answered_ms, kind: 'answered', text: 'Alice Ashford answered', attributes: null },
        { at_ms: answered_ms + 30_000, kind: 'hold', text: 'Put on hold', attributes: null },
        { at_ms: answered_ms + 36_000, kind: 'resume', text: 'Resumed', attributes: null },
        { at_ms: answered_ms + 44_000, kind: 'recording_paused', text: 'Recording paused', attributes: null },
        { at_ms: answered_ms + 60_000, kind: 'ended', text: 'Caller hung up', attributes: null },
      ],
      transcript: [
        { channel: 'agent', start_ms: 600, end_ms: 3_000, text: 'Trunkline support, my name is Alice, how can I help?', confidence: 0.94, gap: null },
        { channel: 'caller', start_ms: 3_400, end_ms: 9_000, text: 'Hello, my name is Jana Richter. I have a question about my router, the light is red.', confidence: 0.9, gap: null },
        { channel: 'agent', start_ms: 9_500, end_ms: 14_000, text: 'I am sorry to hear that. Let me look at your line.', confidence: 0.93, gap: null },
        { channel: 'caller', start_ms: 14_500, end_ms: 16_000, text: '', confidence: null, gap: true },
        { channel: 'caller', start_ms: 16_000, end_ms: 20_000, text: 'Thank you, please help me.', confidence: 0.88, gap: null },
      ],
      transcript_status: 'finished', transcript_detail: '',
      decisions: [
        { at_ms: started_ms + 9_000, queue_id: 'support', offer_id: 'o-1', agent_id: 'bob', outcome: 'missed', explanation: { strategy: 'longest_idle', configuration_version: 7, position: 1, waiting: 3, candidates_total: 1, candidates: [{ agent_id: 'bob', idle_since_ms: started_ms - 50_000, skill_level: 3, score: 59 }], exclusions: [{ agent_id: 'alice', reason: 'unavailable' }] } },
        { at_ms: started_ms + 17_500, queue_id: 'support', offer_id: 'o-2', agent_id: 'alice', outcome: 'accepted', explanation: { strategy: 'longest_idle', configuration_version: 7, position: 0, waiting: 3, candidates_total: 2, candidates: [{ agent_id: 'alice', idle_since_ms: started_ms - 120_000, skill_level: 4, score: 137.5 }, { agent_id: 'carol', idle_since_ms: started_ms - 9_000, skill_level: 3, score: 26.5 }], exclusions: [{ agent_id: 'bob', reason: 'avoided' }, { agent_id: 'dave', reason: 'unavailable' }, { agent_id: 'gita', reason: 'skill' }] } },
      ],
      quality: [
        { leg_id: `${call_id}-a`, packets_received: 2_990, packets_lost: 10, jitter_ms: 3.1, round_trip_ms: null, mos: 4.31 },
        { leg_id: `${call_id}-b`, packets_received: 2_940, packets_lost: 61, jitter_ms: 12.4, round_trip_ms: 38, mos: 3.72 },
      ],
      trace_id: '4bf92f3577b34da6a3ce929d0e0e4736', sip_call_id: 'a84b4c76e66710@192.0.2.10',
      links: { trace: 'https://traces.example.com/trace/4bf92f3577b34da6a3ce929d0e0e4736', logs: `https://logs.example.com/?q=${call_id}`, dashboard: null }, ...more,
    };
    this.contacts.set(call_id, contact);
    return contact;
  }
}

export class Agent {
  constructor(world, user) {
    this.world = world;
    this.user = user;
    this.sessions = new Map();
    this.state = { state: 'not_ready', reason: 'signed_in', since_ms: Date.now(), until_ms: null, call: null, next: null, microphone: null, queues: ['Support', 'Billing'] };
  }

  snapshot() {
    return { server_ms: Date.now(), ...this.state, sessions: [...this.sessions.keys()] };
  }

  set(change) {
    if (change.state && change.state !== this.state.state) change = { since_ms: Date.now(), until_ms: null, reason: null, ...change };
    this.state = { ...this.state, ...change };
    for (const session of this.sessions.values()) session.push('delta', { ...change, server_ms: Date.now() });
  }

  setCall(change) {
    if (this.state.call) this.set({ call: { ...this.state.call, ...change } });
  }

  ring(more = {}) {
    const id = randomUUID().slice(0, 8);
    const call = { call_id: `call-${id}`, offer_id: `offer-${id}`, queue_id: 'support', queue_name: 'Support', caller_number: '+49 30 5550142', caller_name: 'Jana <i>Richter</i>', dialled: 'support', attributes: { menu_choice: '2 – router', customer_no: '48213', language: 'de' }, entered_ms: Date.now() - 18_000, connected_ms: null, on_hold: false, muted: false, recording: 'off', media_generation: 0, caller_held: false, consulted_by: null, consultation: null, notes: '', disposition_required: true, dispositions: ['resolved', 'callback', 'escalated', 'wrong_number'], ...more };
    this.set({ state: 'ringing', until_ms: Date.now() + RING_MS, call });
    for (const session of this.sessions.values()) session.push('ring', { offer_id: call.offer_id });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.state.state === 'ringing' && this.set({ state: 'not_ready', reason: 'missed', call: null }), RING_MS);
    return call;
  }

  hangUp() {
    const { call } = this.state;
    clearTimeout(this.timer);
    if (!call) return;
    if (this.state.state === 'ringing') return this.set({ state: 'ready', call: null });
    this.world.contact(call.call_id, { wrap_up_ms: 0, notes: call.notes, disposition: '', tags: [] });
    this.set({ state: 'wrap_up', until_ms: Date.now() + WRAP_MS, microphone: null, call: { ...call, on_hold: false } });
    this.timer = setTimeout(() => this.finish({ tags: [] }), WRAP_MS);
  }

  finish({ disposition = '', tags, notes }) {
    clearTimeout(this.timer);
    const { call, next } = this.state;
    const contact = call && this.world.contacts.get(call.call_id);
    if (contact) Object.assign(contact, { disposition, tags, notes: notes ?? call.notes, wrap_up_ms: Date.now() - this.state.since_ms });
    this.set(next && !next.ready ? { state: 'not_ready', reason: next.reason, call: null, next: null } : { state: 'ready', call: null, next: null });
  }

  say(channel, start_ms, end_ms, text, final = true) {
    const { call } = this.state;
    for (const session of this.sessions.values()) session.push('transcript', { call_id: call.call_id, channel, start_ms, end_ms, text, final });
  }

  /** The call's media node goes: the page that has the microphone is told, as the call does it again and again. */
  moveMedia() {
    const { call, microphone } = this.state;
    const media_generation = call.media_generation + 1;
    this.setCall({ media_generation });
    for (let n = 0; n < 3; n += 1) this.sessions.get(microphone)?.push('media_moved', { offer_id: call.offer_id, generation: media_generation });
  }

  async media(session, sdp) {
    this.offers = (this.offers ?? 0) + 1;
    if (!this.world.answerer) return { ok: false, error: 'media_unavailable', message: 'open /mock/media in another tab: it stands for the media node' };
    const answer = await this.world.answerer(sdp);
    const before = this.state.microphone;
    if (before && before !== session.id) this.sessions.get(before)?.push('microphone_lost', { to_session: session.id });
    return { ok: true, sdp: answer };
  }

  async command(session, type, data) {
    const s = this.state;
    switch (type) {
      case 'ready': this.set({ state: 'ready' }); return { ok: true };
      case 'not_ready': this.set({ state: 'not_ready', reason: data.reason }); return { ok: true };
      case 'next': this.set({ next: { ready: data.ready, reason: data.reason ?? null } }); return { ok: true };
      case 'sign_out': this.set({ state: 'signed_out' }); this.state.state = 'not_ready'; return { ok: true };
      case 'accept': {
        if (s.state !== 'ringing' || s.call.offer_id !== data.offer_id) return { ok: false, error: 'offer_over' };
        const result = await this.media(session, data.sdp);
        if (!result.ok) return result;
        clearTimeout(this.timer);
        this.set({ state: 'connecting', microphone: session.id });
        this.set({ state: 'talking', call: { ...s.call, connected_ms: Date.now(), recording: 'on' } });
        return result;
      }
      case 'decline': clearTimeout(this.timer); this.set({ state: 'ready', call: null }); return { ok: true };
      case 'media_resume': {
        if (s.state !== 'talking') return { ok: false, error: 'wrong_state' };
        if (s.microphone && s.microphone !== session.id && !data.take_over) return { ok: false, error: 'microphone_taken' };
        const result = await this.media(session, data.sdp);
        if (result.ok) this.set({ microphone: session.id });
        return result;
      }
      case 'hold': this.setCall({ on_hold: data.on }); return { ok: true };
      case 'mute': this.setCall({ muted: data.on }); return { ok: true };
      case 'digits': this.digits = (this.digits ?? '') + data.digits; return { ok: true };
      case 'hang_up': case 'transfer': case 'transfer_complete': this.hangUp(); return { ok: true };
      case 'consult':
        if (data.queue_id === 'support') return { ok: false, error: 'call', message: 'queue_full' };
        this.setCall({ on_hold: true, consultation: { state: 'waiting', party: data.queue_id } });
        setTimeout(() => s.call && this.setCall({ consultation: { state: 'with', party: 'Bob Brown' } }), CONSULT_MS);
        return { ok: true };
      case 'consult_cancel': this.setCall({ on_hold: false, consultation: null }); return { ok: true };
      case 'pause_recording': this.setCall({ recording: data.on ? 'paused' : 'on' }); return { ok: true };
      case 'notes': if (s.call?.call_id !== data.call_id) return { ok: false, error: 'wrong_state' }; this.setCall({ notes: data.notes }); return { ok: true };
      case 'wrap_up_extend': clearTimeout(this.timer); this.set({ until_ms: s.until_ms + data.seconds * 1000 }); return { ok: true };
      case 'wrap_up_finish':
        if (s.state !== 'wrap_up') return { ok: false, error: 'wrong_state' };
        if (s.call.disposition_required && !data.disposition) return { ok: false, error: 'disposition_required' };
        this.finish(data);
        return { ok: true };
      default: return { ok: false, error: 'unknown', message: `unknown command ${type}` };
    }
  }
}

export const reasons = REASONS;

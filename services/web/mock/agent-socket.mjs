// The server side of the agent protocol: sessions, numbering, acknowledgement, resume.
import { randomUUID } from 'node:crypto';
import { reasons } from './world.mjs';

class Session {
  constructor(agent) {
    this.id = `s-${randomUUID().slice(0, 8)}`;
    this.agent = agent;
    this.seq = 0;
    this.unacked = [];
    this.results = new Map();
    this.socket = null;
  }

  push(type, data, re) {
    const frame = { seq: ++this.seq, type, data, ...(re ? { re } : {}) };
    this.unacked.push(frame);
    if (this.unacked.length > 512) this.unacked.shift();
    this.socket?.send(JSON.stringify(frame));
  }
}

const RESUME_MS = 60_000;

export function serveAgent(socket, agent) {
  let session = null;

  function hello({ id, data }) {
    const welcome = (resumed) => ({ session: session.id, resumed, server_ms: Date.now(), protocol: 1, user: agent.user, not_ready_reasons: reasons, transfer_queues: [{ id: 'support', name: 'Support' }, { id: 'sales', name: 'Sales' }], keepalive_s: 10 });
    const old = data.resume && agent.sessions.get(data.resume.session);
    if (old) {
      session = old;
      clearTimeout(session.gone);
      if (session.socket && session.socket !== socket) session.socket.close(4409, 'resumed elsewhere');
      session.socket = socket;
      if (agent.elsewhere) {
        // Another console than before: the session under its name, from a new snapshot.
        agent.elsewhere = false;
        session.seq = 0;
        session.unacked = [];
        session.push('welcome', welcome(false), id);
        session.push('snapshot', agent.snapshot());
        return;
      }
      // As the console does: the welcome takes the next number, what was not handled follows after it.
      const rest = session.unacked.filter((frame) => frame.seq > data.resume.last_seq);
      session.unacked = [];
      session.seq = data.resume.last_seq;
      session.push('welcome', welcome(true), id);
      for (const frame of rest) session.push(frame.type, frame.data, frame.re);
      return;
    }
    session = new Session(agent);
    session.socket = socket;
    agent.sessions.set(session.id, session);
    session.push('welcome', welcome(false), id);
    session.push('snapshot', agent.snapshot());
    agent.set({ sessions: [...agent.sessions.keys()] });
  }

  async function command({ id, type, data }) {
    let result = session.results.get(id);
    if (!result) session.results.set(id, (result = agent.command(session, type, data)));
    const to = session;
    to.push('result', await result, id);
  }

  socket.on('message', (text) => {
    const frame = JSON.parse(String(text));
    if (!session) {
      if (frame.type !== 'hello') return socket.close(4400, 'hello first');
      return hello(frame);
    }
    if (frame.type === 'ack') session.unacked = session.unacked.filter((old) => old.seq > frame.data.seq);
    else if (frame.type === 'ping') session.push('pong', { server_ms: Date.now() }, frame.id);
    else void command(frame);
  });
  socket.on('close', () => {
    if (!session || session.socket !== socket) return;
    session.socket = null;
    session.gone = setTimeout(() => {
      agent.sessions.delete(session.id);
      if (agent.state.microphone === session.id) agent.set({ microphone: null });
    }, RESUME_MS);
    session.gone.unref();
  });
}

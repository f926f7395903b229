// The mock console: REST, live stream, agent socket, and the built pages under the real policy.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WebSocketServer } from 'ws';
import { serveAgent } from './agent-socket.mjs';
import { conversation } from './wav.mjs';
import { World } from './world.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
export const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
const PAGES = [
  [/^\/$/, 'signin'],
  [/^\/agent$/, 'agent'],
  [/^\/wallboard$/, 'wallboard'],
  [/^\/contacts(\/[^/]+)?$/, 'contacts'],
  [/^\/cluster$/, 'cluster'],
];
const MEDIA_PAGE = '<!doctype html><html lang="en"><title>mock media node</title><p id="status">…</p><script type="module" src="/mock/media.js"></script></html>';

/** Starts the mock on loopback. `vite` is Vite's dev server in middleware mode, for live editing. */
export async function startMock({ port = 0, vite = null } = {}) {
  const world = new World();
  const audio = conversation(60_000);
  const streams = new Set();
  const server = createServer((request, response) => {
    void route(request, response).catch((error) => json(response, 500, { title: 'Mock failed', detail: String(error) }));
  });

  function whoami(request) {
    const name = /trunkline_session=(\w+)/.exec(request.headers.cookie ?? '')?.[1];
    return name ? world.user(name) : null;
  }

  async function route(request, response) {
    const url = new URL(request.url, 'http://localhost');
    if (!vite) response.setHeader('content-security-policy', CSP);
    const page = PAGES.find(([pattern]) => pattern.test(url.pathname));
    if (url.pathname.startsWith('/api/v1/')) return api(request, response, url);
    if (url.pathname === '/mock/media') return send(response, 200, MEDIA_PAGE, TYPES['.html']);
    if (url.pathname === '/mock/media.js') return send(response, 200, await readFile(join(ROOT, 'mock/media.js')), TYPES['.js']);
    if (url.pathname === '/mock/ring') return json(response, 200, world.agent(url.searchParams.get('agent') ?? 'alice').ring());
    if (url.pathname === '/mock/hang-up') return json(response, 200, world.agent('alice').hangUp() ?? {});
    if (vite) {
      if (!page) return vite.middlewares(request, response);
      const html = await readFile(join(ROOT, `${page[1]}.html`), 'utf8');
      return send(response, 200, await vite.transformIndexHtml(url.pathname, html), TYPES['.html']);
    }
    const file = page ? `/${page[1]}.html` : normalize(url.pathname);
    const body = await readFile(join(ROOT, 'dist', file)).catch(() => null);
    if (!body) return json(response, 404, { title: 'Not found', detail: file });
    return send(response, 200, body, TYPES[extname(file)] ?? 'application/octet-stream');
  }

  async function api(request, response, url) {
    const path = url.pathname.slice('/api/v1'.length);
    if (path === '/session' && request.method === 'POST') {
      const { name, password } = JSON.parse(await text(request));
      const user = world.user(name);
      if (!user || password !== `${name}-dev`) return json(response, 401, { title: 'Unauthorized', detail: 'wrong name or password' });
      response.setHeader('set-cookie', `trunkline_session=${name}; HttpOnly; SameSite=Strict; Path=/`);
      return json(response, 200, { token: 't', expires_ms: Date.now() + 3.6e6, user });
    }
    const user = whoami(request);
    if (!user) return json(response, 401, { title: 'Unauthorized', detail: 'sign in first' });
    if (path === '/session' && request.method === 'GET') return json(response, 200, user);
    if (path === '/session') {
      response.setHeader('set-cookie', 'trunkline_session=; Max-Age=0; Path=/');
      return send(response, 204, '', 'text/plain');
    }
    if (path === '/queues') return json(response, 200, { queues: world.live().queues.map(({ queue_id, name }) => ({ queue_id, name })) });
    if (path === '/contacts') {
      const contacts = [...world.contacts.values()].reverse();
      return json(response, 200, { contacts, next_cursor: null });
    }
    const record = /^\/contacts\/([^/]+)$/.exec(path);
    if (record) {
      const contact = world.contacts.get(decodeURIComponent(record[1]));
      return contact ? json(response, 200, contact) : json(response, 404, { title: 'Not found', detail: 'no such contact' });
    }
    if (/^\/recordings\/[^/]+\/audio$/.test(path)) return range(request, response, audio);
    if (path === '/live/stream') return live(request, response, user);
    if (path.startsWith('/cluster')) return cluster(request, response, user, path);
    return json(response, 404, { title: 'Not found', detail: path });
  }

  function live(request, response, user) {
    if (!user.roles.some((role) => role === 'supervisor' || role === 'admin')) return json(response, 403, { title: 'Forbidden', detail: 'supervisors only' });
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    const emit = () => response.write(`event: live\ndata: ${JSON.stringify(world.live())}\n\n`);
    emit();
    const timer = setInterval(emit, 1000);
    streams.add(response);
    request.on('close', () => {
      clearInterval(timer);
      streams.delete(response);
    });
  }

  function cluster(request, response, user, path) {
    if (!user.roles.some((role) => role === 'supervisor' || role === 'admin')) return json(response, 403, { title: 'Forbidden', detail: 'supervisors only' });
    if (path === '/cluster') return json(response, 200, world.cluster.overview());
    const order = /^\/cluster\/nodes\/([^/]+)\/(drain|undrain)$/.exec(path);
    if (!order || request.method !== 'POST') return json(response, 404, { title: 'Not found', detail: path });
    if (!user.roles.includes('admin')) return json(response, 403, { title: 'Forbidden', detail: 'administrators only' });
    const refusal = world.cluster.setDrain(order[1], order[2] === 'drain');
    return refusal ? json(response, 409, { title: 'Not possible now', detail: refusal }) : send(response, 204, '', 'text/plain');
  }

  const agentSockets = new WebSocketServer({ noServer: true, handleProtocols: () => 'trunkline.v1' });
  const mediaSockets = new WebSocketServer({ noServer: true });
  server.on('upgrade', (request, socket, head) => {
    if (request.url === '/api/v1/agent/ws') {
      const user = whoami(request);
      agentSockets.handleUpgrade(request, socket, head, (ws) => {
        if (!user?.agent_id) ws.close(4401, 'sign in first');
        else serveAgent(ws, world.agent(user.name));
      });
    } else if (request.url === '/mock/media-ws') mediaSockets.handleUpgrade(request, socket, head, (ws) => attachMedia(world, ws));
    else if (!vite) socket.destroy();
  });

  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  world.contact('call-earlier', { started_ms: Date.now() - 3_600_000, caller_name: 'Ken Okafor', caller_number: '+44 20 7946 0101' });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    world,
    server,
    /** Cuts every agent socket, as a lost network does. */
    cutAgents: () => agentSockets.clients.forEach((client) => client.terminate()),
    cutLive: () => streams.forEach((response) => response.destroy()),
    close: () => {
      for (const set of [agentSockets, mediaSockets]) set.clients.forEach((client) => client.terminate());
      streams.forEach((response) => response.destroy());
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

function attachMedia(world, ws) {
  const waiting = new Map();
  let next = 0;
  ws.on('message', (message) => {
    const frame = JSON.parse(String(message));
    if (frame.ready) {
      world.answerer = (sdp) =>
        new Promise((resolve) => {
          waiting.set(++next, resolve);
          ws.send(JSON.stringify({ id: next, sdp }));
        });
    } else waiting.get(frame.id)?.(frame.sdp);
  });
  ws.on('close', () => (world.answerer = null));
}

function range(request, response, body) {
  const asked = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  response.setHeader('accept-ranges', 'bytes');
  if (!asked) return send(response, 200, body, 'audio/wav');
  const from = Number(asked[1]);
  const to = Math.min(body.length - 1, asked[2] ? Number(asked[2]) : body.length - 1);
  response.setHeader('content-range', `bytes ${from}-${to}/${body.length}`);
  return send(response, 206, body.subarray(from, to + 1), 'audio/wav');
}

async function text(request) {
  let body = '';
  for await (const part of request) body += part;
  return body;
}

function json(response, status, value) {
  send(response, status, JSON.stringify(value), status >= 400 ? 'application/problem+json' : 'application/json');
}

function send(response, status, body, type) {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

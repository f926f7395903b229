// `npm run mock` serves the built pages, `npm run dev` the sources with live reload. Sign in as alice
// (alice-dev), bob or sue; keep /mock/media open in a tab (the media node); /mock/ring rings alice.
import { startMock } from './server.mjs';

let vite = null;
if (process.argv.includes('--vite')) {
  const { createServer } = await import('vite');
  vite = await createServer({ server: { middlewareMode: true, hmr: { port: 8188 } }, appType: 'custom' });
}
const { url } = await startMock({ port: Number(process.env.PORT ?? 8180), vite });
console.log(`mock console on ${url} (media node: ${url}/mock/media, ring: ${url}/mock/ring)`);

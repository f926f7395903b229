// First-load budgets, brotli: the page's HTML, its entry, every chunk it imports statically, and their
// styles. A chunk that is loaded on demand does not count. Fails when a page exceeds its budget.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants } from 'node:zlib';

const BUDGETS_KB = { signin: 60, agent: 60, wallboard: 80, contacts: 80, cluster: 80 };
const dist = fileURLToPath(new URL('../dist/', import.meta.url));
const read = (file) => readFileSync(dist + file);

let manifest;
try {
  manifest = JSON.parse(read('.vite/manifest.json').toString());
} catch {
  console.error('dist/ is missing: run `npm run build` first');
  process.exit(2);
}

function files(key, seen = new Set()) {
  const chunk = manifest[key];
  if (!chunk || seen.has(chunk.file)) return seen;
  seen.add(chunk.file);
  for (const css of chunk.css ?? []) seen.add(css);
  for (const other of chunk.imports ?? []) files(other, seen);
  return seen;
}

const brotli = (data) => brotliCompressSync(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }).length;
let failed = 0;
for (const [page, budget] of Object.entries(BUDGETS_KB)) {
  const bytes = [`${page}.html`, ...files(`${page}.html`)].reduce((sum, file) => sum + brotli(read(file)), 0);
  const over = bytes > budget * 1000;
  if (over) failed += 1;
  console.log(`${over ? 'OVER' : 'ok  '} ${page.padEnd(10)} ${(bytes / 1000).toFixed(1)} kB of ${budget} kB`);
}
process.exit(failed > 0 ? 1 : 0);

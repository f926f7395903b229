// Rules of the sources that no compiler checks: names never become markup, nothing needs `unsafe-inline`,
// files stay readable, and the lock file names no download address.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const MAX_LINES = 400;
const RULES = [
  [/\{@html/, 'markup from text ({@html}) is banned: show text as text'],
  [/\.(inner|outer)HTML\s*=|insertAdjacentHTML|document\.write/, 'markup from strings is banned'],
  [/\sstyle="/, 'style attributes are refused by the policy: use a class or style:name={…}'],
  [/<script(?![^>]*(lang="ts"|type="module" src=))/, 'inline scripts are refused by the policy'],
  [/\son(click|load|error|input)="/, 'inline handlers are refused by the policy'],
  [/\beval\(|new Function\(/, 'code from strings is refused by the policy'],
];

function* sources(folder) {
  for (const name of readdirSync(join(root, folder))) {
    const path = join(folder, name);
    if (statSync(join(root, path)).isDirectory()) yield* sources(path);
    else if (/\.(svelte|ts|html)$/.test(name)) yield path;
  }
}

const found = [];
const pages = readdirSync(root).filter((name) => name.endsWith('.html'));
for (const path of [...pages, ...['agent', 'cluster', 'supervisor', 'shared'].flatMap((folder) => [...sources(folder)])]) {
  const text = readFileSync(join(root, path), 'utf8');
  const lines = text.split('\n');
  lines.forEach((line, i) => {
    for (const [pattern, why] of RULES) if (pattern.test(line)) found.push(`${path}:${i + 1}: ${why}`);
  });
  if (lines.length > MAX_LINES && !path.includes('i18n')) found.push(`${path}: ${lines.length} lines, more than ${MAX_LINES}`);
}
if (/"resolved":/.test(readFileSync(join(root, 'package-lock.json'), 'utf8'))) {
  found.push('package-lock.json: download addresses; install with omit-lockfile-registry-resolved');
}
for (const line of found) console.error(line);
console.log(found.length === 0 ? 'tidy: ok' : `tidy: ${found.length} findings`);
process.exit(found.length === 0 ? 0 : 1);

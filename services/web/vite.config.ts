import { defineConfig } from 'vite';
import { svelte } from '@sveltejs/vite-plugin-svelte';

// One HTML file per page; the console embeds `dist` and maps its paths to them.
// Nothing is inlined, so that `default-src 'self'` without exceptions is enough.
export default defineConfig({
  plugins: [svelte()],
  build: {
    target: ['chrome123', 'firefox121', 'safari17.5'],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    manifest: true,
    reportCompressedSize: false,
    rollupOptions: {
      input: {
        signin: 'signin.html',
        agent: 'agent.html',
        wallboard: 'wallboard.html',
        contacts: 'contacts.html',
        cluster: 'cluster.html',
      },
    },
  },
  test: { include: ['test/**/*.test.ts'], environment: 'node' },
} as Parameters<typeof defineConfig>[0]);

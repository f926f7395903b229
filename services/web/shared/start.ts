/** What every page does first: styles, appearance, language, then the page itself. */
import { mount, type Component } from 'svelte';
import './styles/tokens.css';
import './styles/base.css';
import { i18n } from './i18n/index.svelte';
import { appearance } from './theme.svelte';

export async function start(page: Component): Promise<void> {
  appearance.start();
  await i18n.start();
  const target = document.getElementById('app');
  if (target) mount(page, { target });
}

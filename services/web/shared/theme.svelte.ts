/** Appearance: system, light or dark, and high contrast. Kept for this browser. */

export type Theme = 'auto' | 'light' | 'dark';
const THEME = 'trunkline.theme';
const CONTRAST = 'trunkline.contrast';

class Appearance {
  theme = $state<Theme>('auto');
  contrast = $state(false);

  start(): void {
    const stored = localStorage.getItem(THEME);
    this.theme = stored === 'light' || stored === 'dark' ? stored : 'auto';
    this.contrast = localStorage.getItem(CONTRAST) === 'more';
    this.#apply();
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    localStorage.setItem(THEME, theme);
    this.#apply();
  }

  setContrast(on: boolean): void {
    this.contrast = on;
    localStorage.setItem(CONTRAST, on ? 'more' : 'normal');
    this.#apply();
  }

  #apply(): void {
    const root = document.documentElement;
    if (this.theme === 'auto') delete root.dataset['theme'];
    else root.dataset['theme'] = this.theme;
    if (this.contrast) root.dataset['contrast'] = 'more';
    else delete root.dataset['contrast'];
  }
}

export const appearance = new Appearance();

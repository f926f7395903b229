/** Catalogues of messages. English is in the bundle; others are loaded when chosen. */
import { en, type Catalogue, type Key } from './en';

export type Locale = 'en' | 'de';
export const LOCALES: { id: Locale; name: string }[] = [
  { id: 'en', name: 'English' },
  { id: 'de', name: 'Deutsch' },
];

const STORE = 'trunkline.locale';

class I18n {
  locale = $state<Locale>('en');
  #catalogue = $state.raw<Catalogue>(en);

  /** The chosen language, else the browser's first one that we have. */
  async start(): Promise<void> {
    const known = (tag: string | null): Locale | undefined =>
      LOCALES.find((locale) => tag?.toLowerCase().startsWith(locale.id))?.id;
    const chosen = known(localStorage.getItem(STORE));
    await this.#load(chosen ?? navigator.languages.map(known).find((id) => id !== undefined) ?? 'en');
  }

  async choose(locale: Locale): Promise<void> {
    localStorage.setItem(STORE, locale);
    await this.#load(locale);
  }

  async #load(locale: Locale): Promise<void> {
    try {
      this.#catalogue = locale === 'de' ? (await import('./de')).de : en;
      this.locale = locale;
    } catch {
      this.#catalogue = en; // offline: English is always here
      this.locale = 'en';
    }
    document.documentElement.lang = this.locale;
  }

  t = (key: Key, values: Record<string, string | number> = {}): string =>
    fill(this.#catalogue[key], values);

  /** A word that the server named: translated when the catalogue knows it, else made readable. */
  word = (prefix: 'reason' | 'outcome' | 'exclusion' | 'transcript_status' | 'error', code: string): string => {
    const known = (this.#catalogue as Record<string, string | undefined>)[`${prefix}.${code}`];
    return known ?? code.replaceAll('_', ' ');
  };

  has(key: string): key is Key {
    return Object.hasOwn(en, key);
  }
}

export function fill(text: string, values: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

export const i18n = new I18n();
export const t = i18n.t;

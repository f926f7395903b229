/** Keyboard shortcuts: Alt and a letter by its place on the keyboard, so they hold on any layout. */
import type { Key } from '../shared/i18n/en';
import type { Desk } from './desk.svelte';

export interface Shortcut {
  code: string;
  label: string;
  text: Key;
  when(desk: Desk): boolean;
  run(desk: Desk): void;
}

export interface Hooks {
  keypad(): void;
  shortcuts(): void;
  finish(): void;
  notReady(): void;
}

export function shortcuts(hooks: Hooks): Shortcut[] {
  const talking = (desk: Desk): boolean => desk.state === 'talking';
  const ringing = (desk: Desk): boolean => desk.state === 'ringing';
  return [
    { code: 'KeyA', label: 'Alt+A', text: 'ring.accept', when: ringing, run: (desk) => void desk.accept() },
    { code: 'KeyX', label: 'Alt+X', text: 'ring.decline', when: ringing, run: (desk) => void desk.decline() },
    {
      code: 'KeyR',
      label: 'Alt+R',
      text: 'state.go_ready',
      when: (desk) => desk.state === 'not_ready',
      run: (desk) => void desk.ready(),
    },
    {
      code: 'KeyN',
      label: 'Alt+N',
      text: 'state.go_not_ready',
      when: (desk) => desk.state === 'ready',
      run: hooks.notReady,
    },
    {
      code: 'KeyM',
      label: 'Alt+M',
      text: 'call.mute',
      when: talking,
      run: (desk) => void desk.do('mute', { on: !desk.snapshot?.call?.muted }),
    },
    {
      code: 'KeyH',
      label: 'Alt+H',
      text: 'call.hold',
      when: talking,
      run: (desk) => void desk.do('hold', { on: !desk.snapshot?.call?.on_hold }),
    },
    { code: 'KeyK', label: 'Alt+K', text: 'call.keypad', when: talking, run: hooks.keypad },
    {
      code: 'KeyP',
      label: 'Alt+P',
      text: 'call.pause_recording',
      when: talking,
      run: (desk) => {
        if (desk.recording !== 'off') void desk.pauseRecording(desk.recording === 'on');
      },
    },
    { code: 'KeyU', label: 'Alt+U', text: 'call.hang_up', when: (desk) => desk.inCall, run: (desk) => void desk.do('hang_up', {}) },
    { code: 'KeyW', label: 'Alt+W', text: 'wrap.finish', when: (desk) => desk.state === 'wrap_up', run: hooks.finish },
    { code: 'Slash', label: 'Alt+/', text: 'keys.open', when: () => true, run: hooks.shortcuts },
  ];
}

/** True when the event was a shortcut and has been carried out. */
export function handleKey(event: KeyboardEvent, desk: Desk, list: Shortcut[]): boolean {
  if (!event.altKey || event.ctrlKey || event.metaKey || event.repeat) return false;
  const found = list.find((shortcut) => shortcut.code === event.code);
  if (!found || !found.when(desk)) return false;
  event.preventDefault();
  found.run(desk);
  return true;
}

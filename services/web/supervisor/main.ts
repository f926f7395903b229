import Page from './Wallboard.svelte';
import { start } from '../shared/start';

void start(Page);

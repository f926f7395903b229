import Page from './SignIn.svelte';
import { start } from '../start';

void start(Page);

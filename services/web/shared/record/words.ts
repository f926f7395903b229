/** Quality of a finished leg in words, by its mean opinion score. */
export function grade(mos: number | null | undefined): 'excellent' | 'good' | 'fair' | 'poor' | 'measuring' {
  if (mos === null || mos === undefined || mos <= 0) return 'measuring';
  if (mos >= 4.2) return 'excellent';
  if (mos >= 3.9) return 'good';
  return mos >= 3.4 ? 'fair' : 'poor';
}

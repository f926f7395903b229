//! Plots as inline SVG.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// More points than pixels tell nothing.
const POINTS: usize = 500;

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// x and y, x rising.
    pub points: Vec<(f64, f64)>,
    /// Of points that fall together the largest is drawn instead of the mean.
    pub peaks: bool,
}

/// A plot over time or over shares.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// What y is.
    pub unit: &'static str,
    /// Lines.
    pub series: Vec<Series>,
    /// Moments with a name.
    pub marks: Vec<(f64, String)>,
    /// x is one over the share that is slower, on a logarithmic axis.
    pub shares: bool,
}

/// Text as content of an element or value of an attribute.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Plot {
    /// Whether there is anything to draw.
    pub fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.len() < 2)
    }

    /// As a figure with its legend.
    pub fn draw(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn x(&self, value: f64) -> f64 {
        if self.shares { value.max(1.0).log10() } else { value }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x_from = points().map(|(x, _)| self.x(*x)).fold(f64::INFINITY, f64::min);
        let x_to = points().map(|(x, _)| self.x(*x)).fold(f64::NEG_INFINITY, f64::max).max(x_from + 1e-9);
        let (step, y_to) = scale(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let across = |x: f64| LEFT + (self.x(x) - x_from) / (x_to - x_from) * (WIDTH - LEFT - RIGHT);
        let up = |y: f64| HEIGHT - BOTTOM - y / y_to * (HEIGHT - TOP - BOTTOM);
        writeln!(
            out,
            "<figure><figcaption>{} <small>{}</small></figcaption>",
            escape(&self.title),
            escape(self.unit)
        )?;
        let label = escape(&self.title);
        writeln!(out, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">")?;
        let mut y = 0.0;
        while y <= y_to * 1.0001 {
            let at = up(y);
            writeln!(out, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/>", WIDTH - RIGHT)?;
            writeln!(
                out,
                "<text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                number(y)
            )?;
            y += step;
        }
        for (value, name) in self.ticks(x_from, x_to) {
            let at = across(value);
            writeln!(out, "<text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{name}</text>", HEIGHT - 10.0)?;
        }
        for (n, (at, name)) in self.marks.iter().enumerate() {
            let (at, y) = (across(*at), TOP + 10.0 + 12.0 * (n % 3) as f64);
            writeln!(out, "<path class=\"mark\" d=\"M{at:.1} {TOP}V{:.1}\"/>", HEIGHT - BOTTOM)?;
            writeln!(out, "<text class=\"mark\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>", at + 4.0, escape(name))?;
        }
        for (n, series) in self.series.iter().enumerate() {
            let mut path = String::new();
            for (x, y) in thin(&series.points, series.peaks) {
                let command = if path.is_empty() { 'M' } else { 'L' };
                write!(path, "{command}{:.1} {:.1}", across(x), up(y))?;
            }
            writeln!(out, "<path class=\"line c{}\" d=\"{path}\"/>", n % 8)?;
        }
        writeln!(out, "</svg><p class=\"legend\">")?;
        for (n, series) in self.series.iter().enumerate() {
            write!(out, "<span class=\"c{}\">{}</span> ", n % 8, escape(&series.name))?;
        }
        writeln!(out, "</p></figure>")
    }

    fn ticks(&self, from: f64, to: f64) -> Vec<(f64, String)> {
        if self.shares {
            let names = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
            let shown = names.iter().enumerate().filter(|(n, _)| (*n as f64) <= to + 0.001);
            return shown.map(|(n, name)| (10.0_f64.powf(n as f64), (*name).to_owned())).collect();
        }
        let steps = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0];
        let step = steps.into_iter().find(|step| (to - from) / step <= 10.0).unwrap_or(86_400.0);
        let mut at = (from / step).ceil() * step;
        let mut ticks = Vec::new();
        while at <= to && ticks.len() < 20 {
            let name = if at >= 120.0 {
                format!("{:.0}:{:02.0}", (at / 60.0).floor(), at % 60.0)
            } else {
                format!("{at:.0} s")
            };
            ticks.push((at, name));
            at += step;
        }
        ticks
    }
}

/// A round step and the end of an axis that holds `most`.
fn scale(most: f64) -> (f64, f64) {
    let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
    let rough = most / 4.0;
    let power = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(power * 10.0);
    (step, (most / step).ceil() * step)
}

/// As many points as can be told apart.
fn thin(points: &[(f64, f64)], peaks: bool) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(POINTS).max(1);
    let part = points.chunks(each).filter_map(|part| {
        let x = part.first()?.0;
        let n = part.len() as f64;
        let mean = part.iter().map(|(_, y)| y).sum::<f64>() / n;
        let most = part.iter().map(|(_, y)| *y).fold(f64::NEG_INFINITY, f64::max);
        Some((x, if peaks { most } else { mean }))
    });
    part.collect()
}

fn number(value: f64) -> String {
    match value.abs() {
        most if most >= 1e6 => format!("{:.1} M", value / 1e6),
        most if most >= 1e4 => format!("{:.0} k", value / 1e3),
        most if most >= 10.0 || value.fract().abs() < 1e-9 => format!("{value:.0}"),
        most if most >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_what_is_drawn_and_have_round_steps() {
        for most in [0.0, 0.3, 1.0, 7.0, 99.0, 101.0, 12_345.0] {
            let (step, to) = scale(most);
            assert!(to >= most && to / step <= 6.0, "{most}: {step} {to}");
        }
        assert_eq!(scale(99.0), (25.0, 100.0));
    }

    #[test]
    fn peaks_survive_thinning() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|n| (f64::from(n), 1.0)).collect();
        points[7_777].1 = 500.0;
        let most = |thinned: Vec<(f64, f64)>| thinned.iter().map(|(_, y)| *y).fold(0.0, f64::max);
        assert!(thin(&points, true).len() <= POINTS);
        assert_eq!(most(thin(&points, true)), 500.0);
        assert!(most(thin(&points, false)) < 50.0);
    }

    #[test]
    fn names_never_become_markup() {
        let series = Series { name: "<b>".into(), points: vec![(0.0, 1.0), (5.0, 2.0)], peaks: false };
        let marks = vec![(1.0, "\"<script>".into())];
        let drawn = Plot { title: "a&b".into(), series: vec![series], marks, ..Plot::default() }.draw();
        assert!(!drawn.contains("<b>") && !drawn.contains("<script>") && drawn.contains("a&amp;b"));
    }
}

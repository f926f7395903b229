//! MOS by the E-model (ITU-T G.107) for G.711.
//!
//! `R = Ro − Is − Id − Ie,eff + A` with all parameters that a packet network does not change at their defaults, so that
//! `Ro − Is = 93.2`, and A = 0. Echo (Idte, Idle) is left out: a G.711 path between a handset and a headset has an echo
//! canceller at either end.

/// Ro − Is with the defaults of G.107 table 2.
const BASE: f64 = 93.2;
/// G.113 appendix I for G.711 with packet-loss concealment (appendix I of G.711): Ie.
const IE: f64 = 0.0;
/// G.113 appendix I for G.711 with packet-loss concealment: Bpl.
const BPL: f64 = 25.1;

/// What the network did to the speech.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Impairment {
    /// Packets lost, 0 to 100 %.
    pub loss_percent: f64,
    /// Interarrival jitter; the listener's buffer is taken to be twice as long.
    pub jitter_ms: f64,
    /// Round-trip time by RTCP, if known.
    pub rtt_ms: Option<f64>,
}

/// Transmission rating R, 0 to 93.2.
pub fn rating(impairment: &Impairment) -> f64 {
    let loss = impairment.loss_percent.clamp(0.0, 100.0);
    let effective = IE + (95.0 - IE) * loss / (loss + BPL);
    // One way: half the round trip, a packet of 20 ms, the listener's buffer.
    let one_way = impairment.rtt_ms.unwrap_or(0.0) / 2.0 + 20.0 + 2.0 * impairment.jitter_ms.max(0.0);
    (BASE - delay_impairment(one_way) - effective).clamp(0.0, 100.0)
}

/// Idd of G.107 section 7.4: nothing up to 100 ms.
fn delay_impairment(one_way_ms: f64) -> f64 {
    if one_way_ms <= 100.0 {
        return 0.0;
    }
    let x = (one_way_ms / 100.0).log2();
    25.0 * ((1.0 + x.powi(6)).powf(1.0 / 6.0) - 3.0 * (1.0 + (x / 3.0).powi(6)).powf(1.0 / 6.0) + 2.0)
}

/// Mean opinion score (MOS-CQE), 1 to 4.5, by G.107 annex B.
pub fn mos(impairment: &Impairment) -> f64 {
    let r = rating(impairment);
    if r <= 0.0 { 1.0 } else { (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).clamp(1.0, 4.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_path_has_the_best_score_g711_can_have() {
        let clean = Impairment::default();
        assert!((rating(&clean) - 93.2).abs() < 1e-9);
        assert!((mos(&clean) - 4.41).abs() < 0.005, "{}", mos(&clean));
    }

    #[test]
    fn loss_and_delay_lower_it_monotonically() {
        let mut last = 5.0;
        for loss in [0.0, 1.0, 3.0, 10.0, 30.0, 100.0] {
            let score = mos(&Impairment { loss_percent: loss, ..Default::default() });
            assert!(score < last && score >= 1.0);
            last = score;
        }
        let slow = mos(&Impairment { rtt_ms: Some(800.0), ..Default::default() });
        assert!((3.0..3.8).contains(&slow), "{slow}");
        // G.107's own point: Ta = 400 ms costs about 20 to 25 of R.
        assert!((18.0..26.0).contains(&delay_impairment(400.0)), "{}", delay_impairment(400.0));
    }
}

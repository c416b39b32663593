//! How well one can talk over a line: the E-model's rating (ITU-T G.107), from what probes measure.

use crate::engine::uplink::health::Estimates;

/// The rating of a connection without loss and delay, all else as the standard's default values
/// (ITU-T G.107 section 7.7, table 3).
pub(super) const BEST: f64 = 93.2;
/// The robustness of G.711 with concealment against random loss, in percent (ITU-T G.113 appendix I).
const ROBUSTNESS: f64 = 25.1;
/// What loss can take at most (ITU-T G.107 section 7.5).
const WORST: f64 = 95.0;
/// Milliseconds that packets take to be filled and played: one of 20 ms (RFC 3551 section 4.2).
const PACKET: f64 = 20.0;
/// Milliseconds from mouth to ear from which on people interrupt each other.
const AWKWARD: f64 = 177.3;

/// From 93 (as good as can be) over 70 (some are dissatisfied) and 50 (nearly all are) down to 0; `None`: nobody has answered.
///
/// Delay counts as Cole and Rosenbluth ("Voice over IP performance monitoring", 2001) put the standard's curves into two
/// lines. It is half the time to an answer, and twice the jitter in the receiver's buffer.
#[must_use]
pub fn rating(estimates: &Estimates) -> Option<f64> {
    let latency = estimates.latency?.as_secs_f64() * 1000.0;
    let delay = latency / 2.0 + 2.0 * estimates.jitter.as_secs_f64() * 1000.0 + PACKET;
    let loss = 100.0 * estimates.loss;
    let by_delay = 0.024 * delay + 0.11 * (delay - AWKWARD).max(0.0);
    let by_loss = WORST * loss / (loss + ROBUSTNESS);
    Some((BEST - by_delay - by_loss).max(0.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rating_is_that_of_the_standard() {
        assert_rated(0.0, 0, 0, 92.7);
        assert_rated(0.0, 100, 0, 91.5);
        assert_rated(0.0, 400, 0, 83.2);
        assert_rated(0.01, 100, 0, 87.9);
        assert_rated(0.05, 100, 10, 75.3);
        assert_rated(1.0, 100, 0, 15.6);
        assert_rated(1.0, 2000, 900, 0.0);
    }

    #[test]
    fn a_line_that_nobody_answers_over_has_none() {
        assert_eq!(rating(&Estimates::default()), None);
    }

    fn assert_rated(loss: f64, latency: u64, jitter: u64, expected: f64) {
        let (latency, jitter) = (Some(Duration::from_millis(latency)), Duration::from_millis(jitter));
        let rated = rating(&Estimates { loss, latency, jitter }).unwrap();
        assert!((rated - expected).abs() < 0.06, "{rated} and not {expected}");
    }
}

//! A t-digest: a sketch of a distribution that is accurate at its ends and stays small however much goes in.
//!
//! Merging variant with the arcsine scale function (Dunning and Ertl, "Computing extremely accurate quantiles using
//! t-digests"): values wait in a short buffer and are merged into sorted centroids, each of which may hold the less
//! weight the nearer it is to an end. At most about [`DETAIL`] centroids and [`PENDING`] values are kept, 3 KB: a
//! group keeps one a query.

use zql_spec::json::write_number;

/// The compression that the protocol names: what clients merge digests with.
const COMPRESSION: f64 = 1000.0;

/// How finely a digest here is divided. Coarser than the protocol's number, because a tenth of the memory still tells
/// the 99th percentile within a percent.
const DETAIL: f64 = 100.0;

/// Values that wait for being merged: merging sorts, and costs the less a value the more of them there are.
const PENDING: usize = 64;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Digest {
    /// Mean and weight, by mean.
    centroids: Vec<(f64, f64)>,
    pending: Vec<f64>,
}

impl Digest {
    /// Adds a value.
    pub(crate) fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.pending.push(value);
        if self.pending.len() >= PENDING {
            self.merge();
        }
    }

    fn merge(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.centroids);
        all.extend(self.pending.drain(..).map(|value| (value, 1.0)));
        all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        // Position of a quantile on the scale, and back.
        let scale = |quantile: f64| DETAIL / std::f64::consts::TAU * (2.0 * quantile - 1.0).clamp(-1.0, 1.0).asin();
        let back = |position: f64| {
            let angle = position * std::f64::consts::TAU / DETAIL;
            if angle >= std::f64::consts::FRAC_PI_2 { 1.0 } else { (angle.sin() + 1.0) / 2.0 }
        };
        let mut before = 0.0;
        let mut limit = total * back(scale(0.0) + 1.0);
        for (mean, weight) in all {
            match self.centroids.last_mut() {
                Some(last) if before + last.1 + weight <= limit => {
                    last.1 += weight;
                    last.0 += (mean - last.0) * weight / last.1;
                }
                last => {
                    before += last.map_or(0.0, |last| last.1);
                    limit = total * back(scale(before / total) + 1.0);
                    self.centroids.push((mean, weight));
                }
            }
        }
    }

    /// Appends the digest as the protocol has it: the compression, then mean and weight of each centroid.
    pub(crate) fn write(&mut self, out: &mut String) {
        self.merge();
        out.push('[');
        write_number(COMPRESSION, out);
        for (mean, weight) in &self.centroids {
            for number in [*mean, *weight] {
                out.push(',');
                write_number(number, out);
            }
        }
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    fn text(digest: &mut Digest) -> String {
        let mut out = String::new();
        digest.write(&mut out);
        out
    }

    #[test]
    fn few_values_are_kept_as_they_are() {
        let mut digest = Digest::default();
        assert_eq!(text(&mut digest), "[1000]");
        digest.add(2.5);
        digest.add(f64::NAN);
        assert_eq!(text(&mut digest), "[1000,2.5,1]");
        digest.add(1.0);
        assert_eq!(text(&mut digest), "[1000,1,1,2.5,1]");
    }

    #[test]
    fn many_values_keep_their_quantiles() {
        const VALUES: u64 = 100_000;
        let mut digest = Digest::default();
        for value in 0..VALUES {
            // A permutation: 7919 is prime.
            digest.add((value * 7919 % VALUES) as f64);
        }
        digest.merge();
        assert!(digest.centroids.len() < 150, "{}", digest.centroids.len());
        assert!(digest.centroids.is_sorted_by(|a, b| a.0 <= b.0));
        let total: f64 = digest.centroids.iter().map(|centroid| centroid.1).sum();
        assert_eq!(total, VALUES as f64);
        for (quantile, tolerance) in [(0.01, 0.003), (0.5, 0.02), (0.99, 0.003)] {
            let mut before = 0.0;
            let found = digest.centroids.iter().find(|(_, weight)| {
                before += weight;
                before >= quantile * total
            });
            let found = found.expect("a centroid").0 / total;
            assert!((found - quantile).abs() < tolerance, "{quantile}: {found}");
        }
    }
}

//! Whether two kinds of wrong credentials can be told apart by the time that they take:
//! many tries of each, by turns, and a rank test over all of them (Mann and Whitney,
//! 1947), which outliers of a busy machine do not move.

use std::time::Instant;

use agentry_gateway::App;
use axum::body::Body;
use http::{Request, StatusCode};
use tower::Service as _;

/// Standard errors from which on two kinds are called separable; as dudect has it
/// (Reparaz, Balasch, Verbauwhede, 2017).
const SEPARABLE_Z: f64 = 4.5;

/// Two kinds that were compared.
pub(crate) struct Separation {
    pub(crate) name: &'static str,
    /// Tries of each.
    pub(crate) tries: usize,
    /// How likely a try of the first takes longer than one of the second; a half when
    /// nothing separates them.
    pub(crate) auc: f64,
    /// How many standard errors that is from a half.
    pub(crate) z: f64,
}

impl Separation {
    /// Tries every credential, one of each kind by turns, and who goes first by turns.
    pub(crate) async fn of(
        name: &'static str,
        app: &App,
        requests: impl Fn(&str) -> Request<Body>,
        kinds: [&[String]; 2],
    ) -> Self {
        let mut app = app.clone();
        let mut took = [Vec::new(), Vec::new()];
        for (nth, (first, second)) in kinds[0].iter().zip(kinds[1]).enumerate() {
            let mut pair = [(0, first), (1, second)];
            if nth % 2 == 1 {
                pair.reverse();
            }
            for (kind, credential) in pair {
                let request = requests(credential);
                let begun = Instant::now();
                let answer = app.call(request).await.unwrap();
                let elapsed = begun.elapsed();
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                took[kind].push(elapsed.as_nanos());
            }
        }
        let (auc, z) = rank_test(&took[0], &took[1]);
        Self { name, tries: took[0].len(), auc, z }
    }

    /// Whether they can be told apart.
    pub(crate) fn is_separable(&self) -> bool {
        self.z.abs() >= SEPARABLE_Z
    }
}

/// The area under the curve, and its distance from a half in standard errors, with the
/// correction for ties.
fn rank_test(first: &[u128], second: &[u128]) -> (f64, f64) {
    let mut all: Vec<(u128, bool)> = first.iter().map(|took| (*took, true)).collect();
    all.extend(second.iter().map(|took| (*took, false)));
    all.sort_unstable();
    let (mut ranks_of_first, mut ties) = (0.0, 0.0);
    let mut below = 0;
    for same in all.chunk_by(|one, other| one.0 == other.0) {
        let many = same.len() as f64;
        // Ranks count from 1; who ties has their mean.
        let rank = below as f64 + (many + 1.0) / 2.0;
        ranks_of_first += rank * same.iter().filter(|(_, is_first)| *is_first).count() as f64;
        ties += many.powi(3) - many;
        below += same.len();
    }
    let (n, m) = (first.len() as f64, second.len() as f64);
    let u = ranks_of_first - n * (n + 1.0) / 2.0;
    let all = n + m;
    let variance = n * m / 12.0 * ((all + 1.0) - ties / (all * (all - 1.0)));
    (u / (n * m), (u - n * m / 2.0) / variance.sqrt())
}

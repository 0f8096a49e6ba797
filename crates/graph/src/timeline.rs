//! How facts of one subject and predicate follow each other when only one of them
//! can hold at a time. A new fact closes the one before it, at the moment from
//! which it holds itself; one that is told late takes its place in the past, and
//! closes nothing that came after it.

use agentry_domain::Timestamp;

/// A fact on its subject's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held<T> {
    /// Which fact.
    pub fact: T,
    /// From when it holds.
    pub valid_at: Timestamp,
    /// Until when; none when it still does.
    pub invalid_at: Option<Timestamp>,
}

/// Where a new fact goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// Until when it holds; none when it still does.
    pub invalid_at: Option<Timestamp>,
    /// The facts that end with it, and when.
    pub closes: Vec<(T, Timestamp)>,
}

/// Places a new fact among those that say something else of the same.
pub fn place<T: Copy>(others: &[Held<T>], valid_at: Timestamp) -> Placed<T> {
    let invalid_at = others.iter().map(|held| held.valid_at).filter(|at| *at > valid_at).min();
    let closes = others
        .iter()
        .filter(|held| {
            held.valid_at <= valid_at && held.invalid_at.is_none_or(|end| end > valid_at)
        })
        .map(|held| (held.fact, valid_at))
        .collect();
    Placed { invalid_at, closes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second)
    }

    #[test]
    fn a_newer_fact_closes_the_older_and_a_late_one_closes_nothing_newer() {
        let porto = Held { fact: 'p', valid_at: at(10), invalid_at: None };
        let placed = place(&[porto], at(20));
        assert_eq!((placed.invalid_at, placed.closes), (None, vec![('p', at(20))]));
        let late = place(&[porto], at(5));
        assert_eq!((late.invalid_at, late.closes), (Some(at(10)), vec![]));
        let rome = Held { fact: 'r', valid_at: at(10), invalid_at: Some(at(30)) };
        let oslo = Held { fact: 'o', valid_at: at(30), invalid_at: None };
        let between = place(&[rome, oslo], at(20));
        assert_eq!((between.invalid_at, between.closes), (Some(at(30)), vec![('r', at(20))]));
    }

    proptest! {
        /// In whatever order facts are told, at each moment at most one holds, and
        /// it is the one that began last.
        #[test]
        fn one_holds_at_a_time(mut moments in proptest::collection::vec(0_i64..1_000, 1..20)) {
            moments.sort_unstable();
            moments.dedup();
            let mut told = moments.clone();
            let turn = told.len() / 2;
            told.rotate_left(turn);
            let mut all: Vec<Held<i64>> = Vec::new();
            for moment in told {
                let placed = place(&all, at(moment));
                for (fact, end) in placed.closes {
                    let held = all.iter_mut().find(|held| held.fact == fact).unwrap();
                    held.invalid_at = Some(end);
                }
                all.push(Held { fact: moment, valid_at: at(moment), invalid_at: placed.invalid_at });
            }
            for now in 0..1_000 {
                let holding: Vec<i64> = all
                    .iter()
                    .filter(|held| held.valid_at <= at(now) && held.invalid_at.is_none_or(|end| end > at(now)))
                    .map(|held| held.fact)
                    .collect();
                let expected: Vec<i64> = moments.iter().copied().rfind(|moment| *moment <= now).into_iter().collect();
                prop_assert_eq!(holding, expected);
            }
        }
    }
}

//! Whose writes go into the next transaction when not all that wait fit in: each
//! organisation as many as any other (max-min fairness), so that one that writes ten
//! times its share waits for itself. Within an organisation who came first goes first.

use std::collections::{HashMap, VecDeque};

use agentry_domain::OrgId;

/// Takes `max` of what waits, in the order in which it came.
pub(crate) fn take<T>(waiting: &mut VecDeque<T>, max: usize, org: impl Fn(&T) -> OrgId) -> Vec<T> {
    if waiting.len() <= max {
        return waiting.drain(..).collect();
    }
    if max == 0 {
        return Vec::new();
    }
    let mut counts: HashMap<OrgId, usize> = HashMap::new();
    for one in waiting.iter() {
        *counts.entry(org(one)).or_default() += 1;
    }
    let share = share(counts.values().copied().collect(), max);
    // What does not divide: one more each for those who came first.
    let mut more = max - counts.values().map(|count| (*count).min(share)).sum::<usize>();
    let mut taken: HashMap<OrgId, usize> = HashMap::with_capacity(counts.len());
    let mut group = Vec::with_capacity(max);
    let mut rest = VecDeque::with_capacity(waiting.len() - max);
    for one in waiting.drain(..) {
        let taken = taken.entry(org(&one)).or_default();
        let is_more = *taken == share && more > 0;
        if *taken < share || is_more {
            more -= usize::from(is_more);
            *taken += 1;
            group.push(one);
        } else {
            rest.push_back(one);
        }
    }
    *waiting = rest;
    group
}

/// How many of each may be taken, so that no more than `max` are, and one who has
/// fewer leaves the rest to the others.
fn share(mut counts: Vec<usize>, max: usize) -> usize {
    counts.sort_unstable();
    let (mut left, mut of) = (max, counts.len());
    for count in counts {
        if count > left / of {
            return left / of;
        }
        left -= count;
        of -= 1;
    }
    max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_shared_out() {
        for (waiting, max, taken, rest) in [
            ("abc", 3, "abc", ""),
            ("aaaaaaab", 4, "aaab", "aaaa"),
            ("aaaaaabbbbbb", 4, "aabb", "aaaabbbb"),
            ("aaaaaabbbbbbc", 5, "aabbc", "aaaabbbb"),
            ("aaaaaabbbbbbc", 6, "aaabbc", "aaabbbb"),
            ("aaaaaaaa", 3, "aaa", "aaaaa"),
            ("aabcde", 3, "abc", "ade"),
            ("abab", 1, "a", "bab"),
        ] {
            let mut queue: VecDeque<char> = waiting.chars().collect();
            let org = |name: &char| OrgId::from_bytes([*name as u8; 16]);
            let group: String = take(&mut queue, max, org).into_iter().collect();
            let left: String = queue.into_iter().collect();
            assert_eq!((&*group, &*left), (taken, rest), "{max} of {waiting}");
        }
    }

    #[test]
    fn who_came_first_goes_first() {
        let mut queue: VecDeque<(u8, u32)> = (0..90).map(|n| ((n % 7 == 0).into(), n)).collect();
        let org = |one: &(u8, u32)| OrgId::from_bytes([one.0; 16]);
        let mut last = HashMap::new();
        let mut seen = 0;
        while !queue.is_empty() {
            for (name, n) in take(&mut queue, 8, org) {
                let before = last.insert(name, n);
                assert!(before.is_none_or(|before| before < n), "{before:?} {n}");
                seen += 1;
            }
        }
        assert_eq!(seen, 90);
    }
}

//! Kinds of users: each user is of one kind for the whole run, and does what
//! that kind does in the shares that it has.

use super::Flow;
use super::pieces::Reader;
use crate::yaml::Node;

/// Users that have something in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kind {
    pub(crate) name: String,
    /// How many users are of this kind, in proportion to the others.
    pub(crate) weight: f64,
    /// By flow, in proportion to the others; 0 for what the kind does not do.
    pub(crate) shares: Vec<f64>,
}

/// The kinds that a scenario names; without any, one that does everything.
pub(super) fn read(reader: &mut Reader, node: Option<&Node>, flows: &[Flow]) -> Vec<Kind> {
    let Some(node) = node else {
        let shares = flows.iter().map(|flow| flow.weight).collect();
        return vec![Kind { name: "users".to_owned(), weight: 1.0, shares }];
    };
    let mut kinds = Vec::new();
    for (key, node) in reader.entries(node, "`kinds`") {
        let Some(fields) = reader.fields(node, &["weight", "mix"]) else { continue };
        let weight = fields.get("weight").map_or(Some(1.0), |node| reader.positive(node));
        let Some(mix) = fields.get("mix") else {
            reader.fault(node, format!("`{}` has no `mix`: flows and their weights", key.name));
            continue;
        };
        let mut shares = vec![0.0; flows.len()];
        for (flow, node) in reader.entries(mix, "`mix`") {
            let share = reader.positive(node).unwrap_or_default();
            match flows.iter().position(|known| known.name == flow.name) {
                Some(number) => shares[number] = share,
                None => {
                    reader.fault_at(flow.at, format!("there is no flow `{}`", flow.name));
                }
            }
        }
        kinds.extend(weight.map(|weight| Kind { name: key.name.clone(), weight, shares }));
    }
    if kinds.is_empty() {
        reader.fault(node, "`kinds` has none");
    }
    kinds
}

/// Leaves only some flows, and only kinds that have one of them.
pub(super) fn only(kinds: Vec<Kind>, kept: &[bool]) -> Vec<Kind> {
    let narrowed = kinds.into_iter().map(|mut kind| {
        let mut kept = kept.iter();
        kind.shares.retain(|_| kept.next().copied().unwrap_or_default());
        kind
    });
    narrowed.filter(|kind| kind.shares.iter().any(|share| *share > 0.0)).collect()
}

/// The kind of each user, so that the first n users have their shares as nearly
/// as n users can.
pub(crate) fn of_users(kinds: &[Kind], users: u32) -> Vec<u16> {
    let total: f64 = kinds.iter().map(|kind| kind.weight).sum();
    let mut due = vec![0.0; kinds.len()];
    let mut chosen = Vec::new();
    for _ in 0..users {
        for (due, kind) in due.iter_mut().zip(kinds) {
            *due += kind.weight / total;
        }
        // Of equals the first.
        let most = (0..due.len()).rev().max_by(|a, b| f64::total_cmp(&due[*a], &due[*b]));
        let most = most.unwrap_or_default();
        due[most] -= 1.0;
        chosen.push(u16::try_from(most).unwrap_or_default());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_their_kinds_in_proportion() {
        let kind = |weight: f64| Kind { name: String::new(), weight, shares: vec![1.0] };
        let kinds = [kind(5.0), kind(3.0), kind(2.0)];
        for (users, expected) in [(1, [1, 0, 0]), (10, [5, 3, 2]), (50, [25, 15, 10])] {
            let mut counts = [0; 3];
            of_users(&kinds, users).iter().for_each(|kind| counts[usize::from(*kind)] += 1);
            assert_eq!(counts, expected);
        }
    }
}

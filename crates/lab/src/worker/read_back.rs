//! The audit of acknowledged writes: after the load everything that was
//! acknowledged is asked for.

use std::cell::{Cell, RefCell};

use super::{READERS, SEARCHED_BODY_BYTES_MAX, Worker};
use crate::connection::{Ask, Connection};
use crate::expression::{Kept, Scope};
use crate::http1::Keep;
use crate::ledger::{Effect, Item, Names};
use crate::run_file::Acknowledged;

/// Paths of each fault (lost, other than sent, not removed) that are named.
const LOST_SHOWN: usize = 20;

impl Worker {
    /// Asks for everything that was acknowledged.
    pub(super) async fn read_back(&self) -> Acknowledged {
        let (not_remembered, items, names) = self.ledger.take().into_items();
        let mut sum = Acknowledged {
            acknowledged: items.len() as u64 + not_remembered,
            not_checked: not_remembered,
            ..Acknowledged::default()
        };
        let (left, names) = (RefCell::new(items.into_iter()), &names);
        let readers = (0..READERS).map(|_| async {
            let mut connection = Connection::default();
            let mut seen = Acknowledged::default();
            loop {
                let Some((path, item)) = left.borrow_mut().next() else { return seen };
                match item.effect {
                    Some(effect) if !*self.shared.interrupted.borrow() => {
                        self.read_one(&mut connection, (&path, &item, effect), names, &mut seen)
                            .await;
                    }
                    _ => seen.not_checked += 1,
                }
            }
        });
        for seen in futures::future::join_all(readers).await {
            sum.merge(seen);
        }
        sum
    }

    async fn read_one(
        &self,
        connection: &mut Connection,
        (path, item, effect): (&str, &Item, Effect),
        names: &Names,
        seen: &mut Acknowledged,
    ) {
        let plan = &self.shared.plan;
        let step = plan.step(item.endpoint);
        let Some(acknowledge) = step.and_then(|step| step.acknowledged.as_ref()) else { return };
        let (nothing, no_lists) = (vec![None; plan.slots], Kept::default());
        let draws = Cell::new(0);
        let scope = Scope {
            uid: 0,
            iteration: 0,
            saved: &nothing,
            kept: &no_lists,
            data: &plan.data,
            dice: self.draws,
            draws: &draws,
        };
        let Ok(rest) = acknowledge.rest.render(&scope) else {
            seen.not_checked += 1;
            return;
        };
        let request = [b"GET ", path.as_bytes(), &rest].concat();
        let ask = Ask {
            request: &request,
            head: false,
            keep: Keep {
                headers: false,
                body_bytes: if item.has_fields() { SEARCHED_BODY_BYTES_MAX } else { 0 },
            },
            stream: None,
            timeout: plan.timeout,
        };
        let exchange = connection.exchange(&self.wire, ask).await;
        let mut show = |how: String| {
            show_lost(&mut seen.lost_paths, format!("{path}{how}"));
        };
        match (&exchange.failure, exchange.answer.status, effect) {
            (None, 200..=299, Effect::Kept) => {
                seen.found += 1;
                let body = serde_json::from_slice(&exchange.answer.body).unwrap_or_default();
                let differences = item.differences(&body, names);
                if !differences.is_empty() {
                    seen.changed += 1;
                    show(format!(" ({} not as it was sent)", differences.join(", ")));
                }
            }
            (None, 404 | 410, Effect::Kept) => {
                seen.lost += 1;
                show(String::new());
            }
            (None, 404 | 410, Effect::Gone) => seen.gone += 1,
            (None, 200..=299, Effect::Gone) => {
                seen.undone += 1;
                show(" (was removed)".to_owned());
            }
            (failure, status, _) => {
                seen.unknown += 1;
                let class = failure
                    .as_ref()
                    .map_or_else(|| format!("http_{status}"), |f| f.class.to_owned());
                *seen.unknown_by_class.entry(class).or_default() += 1;
            }
        }
    }
}

impl Acknowledged {
    pub(crate) fn merge(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.found += other.found;
        self.lost += other.lost;
        self.changed += other.changed;
        self.gone += other.gone;
        self.undone += other.undone;
        self.unknown += other.unknown;
        self.not_checked += other.not_checked;
        for path in other.lost_paths {
            show_lost(&mut self.lost_paths, path);
        }
        for (class, count) in other.unknown_by_class {
            *self.unknown_by_class.entry(class).or_default() += count;
        }
    }
}

/// Each fault has room of its own, so that a frequent one hides no other.
fn show_lost(shown: &mut Vec<String>, path: String) {
    let fault = |path: &str| match path.split_once(' ') {
        None => "lost",
        Some((_, "(was removed)")) => "undone",
        Some(_) => "changed",
    };
    let of_this = fault(&path);
    if shown.iter().filter(|path| fault(path) == of_this).count() < LOST_SHOWN {
        shown.push(path);
    }
}

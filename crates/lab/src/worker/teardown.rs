//! What users do at the end: they take back what they made.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use serde_json::Value;

use super::step::judge;
use super::{READERS, SEARCHED_BODY_BYTES_MAX, TEARDOWN_GRACE, Worker};
use crate::connection::{Ask, Connection};
use crate::expression::{Kept, Scope};
use crate::http1::Keep;
use crate::run_file::Teardown;
use crate::scenario::Step;

/// What a user has that may have to be taken back.
pub(super) struct Retired {
    pub(super) uid: u64,
    pub(super) saved: Vec<Option<Value>>,
    pub(super) kept: Kept,
}

impl Worker {
    /// Every user's teardown; what fails is counted and the rest goes on.
    pub(super) async fn tear_down(&self) -> Teardown {
        let retired = self.retired.take();
        let mut sum = Teardown { users: retired.len() as u64, ..Teardown::default() };
        let left = RefCell::new(retired.into_iter());
        let until = Instant::now() + TEARDOWN_GRACE;
        let users = (0..READERS).map(|_| async {
            let mut connection = Connection::default();
            let mut torn = Teardown::default();
            loop {
                let Some(user) = left.borrow_mut().next() else { return torn };
                if *self.shared.interrupted.borrow() && Instant::now() > until {
                    torn.not_done += 1;
                    continue;
                }
                self.tear_down_one(&mut connection, user, &mut torn).await;
            }
        });
        for torn in futures::future::join_all(users).await {
            sum.merge(torn);
        }
        sum
    }

    async fn tear_down_one(
        &self,
        connection: &mut Connection,
        mut user: Retired,
        torn: &mut Teardown,
    ) {
        for step in &self.shared.plan.teardown {
            // A step that takes from a list is done until nothing is in it.
            while self.take_back(connection, step, &mut user, torn).await {}
        }
    }

    /// Whether the step took something from a list.
    async fn take_back(
        &self,
        connection: &mut Connection,
        step: &Step,
        user: &mut Retired,
        torn: &mut Teardown,
    ) -> bool {
        let plan = &self.shared.plan;
        let draws = Cell::new(0);
        let items = |kept: &Kept| kept.borrow().iter().map(Vec::len).sum::<usize>();
        let before = items(&user.kept);
        for (slot, template) in &step.with {
            let value = template.value(&self.scope_of(user, &draws));
            user.saved[*slot] = value.ok();
        }
        let Ok(request) = step.request.render(&self.scope_of(user, &draws)) else {
            torn.skipped += 1;
            return false;
        };
        let took = items(&user.kept) < before;
        let searched =
            !(step.save.is_empty() && step.keep.is_empty() && step.expect.json.is_empty());
        let keep = Keep {
            headers: !step.expect.headers.is_empty(),
            body_bytes: if searched { SEARCHED_BODY_BYTES_MAX } else { 0 },
        };
        let (request, head) = (&*request, step.request.head);
        let ask = Ask { request, head, keep, stream: step.stream, timeout: plan.timeout };
        let mut exchange = connection.exchange(&self.wire, ask).await;
        torn.requests += 1;
        let judged = match &exchange.failure {
            Some(failure) => Err((failure.class.to_owned(), String::new())),
            None => judge(step, &mut exchange, searched, &self.scope_of(user, &draws)),
        };
        match judged {
            Ok(judged) => {
                let name = &plan.teardown_names[step.endpoint];
                if let Some(done) = torn.done_by_step.get_mut(name) {
                    *done += 1;
                } else {
                    torn.done_by_step.insert(name.clone(), 1);
                }
                for (slot, value) in judged.saved {
                    user.saved[slot] = Some(value);
                }
            }
            Err((class, _)) => {
                torn.failed += 1;
                let name = &plan.teardown_names[step.endpoint];
                *torn.failed_by_class.entry(format!("{name}: {class}")).or_default() += 1;
            }
        }
        took
    }

    fn scope_of<'a>(&'a self, user: &'a Retired, draws: &'a Cell<u64>) -> Scope<'a> {
        Scope {
            uid: user.uid,
            iteration: u64::MAX,
            saved: &user.saved,
            kept: &user.kept,
            data: &self.shared.plan.data,
            dice: self.draws,
            draws,
        }
    }
}

impl Teardown {
    pub(crate) fn merge(&mut self, other: Self) {
        self.users += other.users;
        self.requests += other.requests;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_done += other.not_done;
        for (step, count) in other.done_by_step {
            *self.done_by_step.entry(step).or_default() += count;
        }
        for (class, count) in other.failed_by_class {
            *self.failed_by_class.entry(class).or_default() += count;
        }
    }
}

//! SQL is code: static text, one file per resource, and every statement is
//! known here, so that start-up prepares each one and a test explains it.
//!
//! Parameters are `$1..$n`, numbered in order of first appearance: PostgreSQL
//! takes the number, SQLite takes the order.

use agentry_domain::agents::AgentBody;
use agentry_domain::goals::GoalBody;
use agentry_domain::keys::KeyBody;
use agentry_domain::mcp_servers::McpServerBody;
use agentry_domain::memories::MemoryBody;
use agentry_domain::orgs::OrgBody;
use agentry_domain::plans::PlanBody;
use agentry_domain::sessions::SessionBody;
use agentry_domain::tasks::TaskBody;
use agentry_domain::users::UserBody;
use agentry_domain::webhooks::WebhookBody;

use crate::resources::{Statements, Table as _};

/// A statement in both dialects. The texts are the same unless the engines differ.
#[derive(Debug)]
pub(crate) struct Sql {
    /// Its constant's name, for messages.
    pub name: &'static str,
    /// SQLite's text; empty when only PostgreSQL has this statement.
    pub sqlite: &'static str,
    /// PostgreSQL's text; empty when only SQLite has it.
    pub postgres: &'static str,
    /// Whether reading a whole table is what it is meant to do.
    pub scans: bool,
}

impl Sql {
    /// A statement that is put together from static parts, once in the life of
    /// the process, which keeps its texts.
    pub(crate) fn composed(name: String, sqlite: String, postgres: String) -> Self {
        Self { name: name.leak(), sqlite: sqlite.leak(), postgres: postgres.leak(), scans: false }
    }
}

/// Declares statements and the list of them.
///
/// `NAME = "text";` is shared text, `NAME = sqlite "..." postgres "...";` are
/// variants, and `scan` before a name says that it reads whole tables on purpose.
macro_rules! statements {
    (@one $name:ident $scans:literal $text:literal) => {
        pub(crate) static $name: $crate::sql::Sql = $crate::sql::Sql {
            name: stringify!($name), sqlite: $text, postgres: $text, scans: $scans,
        };
    };
    (@one $name:ident $scans:literal sqlite $sqlite:literal postgres $postgres:literal) => {
        pub(crate) static $name: $crate::sql::Sql = $crate::sql::Sql {
            name: stringify!($name), sqlite: $sqlite, postgres: $postgres, scans: $scans,
        };
    };
    (@all [$($names:ident)*] [$($done:tt)*] scan $name:ident = $text:literal; $($rest:tt)*) => {
        statements!(@one $name true $text);
        statements!(@all [$($names)* $name] [] $($rest)*);
    };
    (@all [$($names:ident)*] [$($done:tt)*] scan $name:ident = sqlite $a:literal postgres $b:literal; $($rest:tt)*) => {
        statements!(@one $name true sqlite $a postgres $b);
        statements!(@all [$($names)* $name] [] $($rest)*);
    };
    (@all [$($names:ident)*] [$($done:tt)*] $name:ident = $text:literal; $($rest:tt)*) => {
        statements!(@one $name false $text);
        statements!(@all [$($names)* $name] [] $($rest)*);
    };
    (@all [$($names:ident)*] [$($done:tt)*] $name:ident = sqlite $a:literal postgres $b:literal; $($rest:tt)*) => {
        statements!(@one $name false sqlite $a postgres $b);
        statements!(@all [$($names)* $name] [] $($rest)*);
    };
    (@all [$($names:ident)*] [$($done:tt)*]) => {
        pub(crate) static STATEMENTS: &[&$crate::sql::Sql] = &[$(&$names,)*];
    };
    ($($all:tt)*) => {
        statements!(@all [] [] $($all)*);
    };
}
pub(crate) use statements;

/// Every statement of the store.
pub(crate) fn all() -> impl Iterator<Item = &'static Sql> {
    [
        crate::admin_jobs::STATEMENTS,
        crate::agents::STATEMENTS,
        crate::asks::STATEMENTS,
        crate::audit::STATEMENTS,
        crate::counters::STATEMENTS,
        crate::episodes::STATEMENTS,
        crate::facts::STATEMENTS,
        crate::files::STATEMENTS,
        crate::goals::STATEMENTS,
        crate::graph::STATEMENTS,
        crate::graph::degrees::STATEMENTS,
        crate::graph::edges::STATEMENTS,
        crate::graph::nodes::STATEMENTS,
        crate::idempotency::STATEMENTS,
        crate::jobs::STATEMENTS,
        crate::keys::STATEMENTS,
        crate::log::STATEMENTS,
        crate::mcp_servers::STATEMENTS,
        crate::messages::STATEMENTS,
        crate::purges::STATEMENTS,
        crate::quotas::STATEMENTS,
        crate::orgs::STATEMENTS,
        crate::run_chunks::STATEMENTS,
        crate::run_tools::STATEMENTS,
        crate::runs::STATEMENTS,
        crate::sealing::STATEMENTS,
        crate::sessions::STATEMENTS,
        crate::tasks::STATEMENTS,
        crate::text::STATEMENTS,
        crate::users::STATEMENTS,
        crate::tickets::STATEMENTS,
        crate::token_holders::STATEMENTS,
        crate::vectors::STATEMENTS,
        crate::webhooks::STATEMENTS,
    ]
    .into_iter()
    .flatten()
    .copied()
    .chain(crate::postgres::statements())
    .chain(resources().into_iter().flat_map(Statements::each))
}

/// Each resource's table, and the counter of its rows.
pub(crate) fn counted_tables() -> impl Iterator<Item = (&'static str, &'static str)> {
    resources().into_iter().map(|statements| statements.counted)
}

/// Every resource's statements.
fn resources() -> Vec<&'static Statements> {
    vec![
        AgentBody::statements(),
        GoalBody::statements(),
        KeyBody::statements(),
        McpServerBody::statements(),
        MemoryBody::statements(),
        OrgBody::statements(),
        PlanBody::statements(),
        SessionBody::statements(),
        TaskBody::statements(),
        UserBody::statements(),
        WebhookBody::statements(),
    ]
}

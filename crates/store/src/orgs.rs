//! Organisations in the store: rows of the installation's own organisation.

use std::sync::LazyLock;

use agentry_domain::orgs::OrgBody;

use crate::resources::{Column, Statements, Table};
use crate::value::{Value, values};

/// Which organisations a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgFilter {
    /// Exactly this name.
    pub name: Option<String>,
}

impl Table for OrgBody {
    const TABLE: &'static str = "org";
    const COLUMNS: &'static [Column] = &[Column::filter("name")];
    const COUNTER: &'static str = "orgs";
    type Filter = OrgFilter;

    fn columns(&self) -> Vec<Value> {
        values![&self.name]
    }

    fn asked(filter: &OrgFilter) -> Vec<Value> {
        values![filter.name.as_ref()]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<OrgBody>);
        &STATEMENTS
    }
}

//! Organisations in the store: rows of the installation's own organisation.

use std::sync::LazyLock;

use agentry_domain::OrgId;
use agentry_domain::orgs::OrgBody;

use crate::resources::{Column, Statements, Table};
use crate::sql::statements;
use crate::value::{Value, values};
use crate::{Result, Store};

statements! {
    // There are few, and each is meant.
    scan ORG_IDS = "select id from org order by id";
}

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

impl Store {
    /// Every organisation: for work that is done for the whole installation.
    pub async fn org_ids(&self) -> Result<Vec<OrgId>> {
        self.scan(&ORG_IDS, values![], |row| Ok(OrgId::from_bytes(row.id()?))).await
    }
}

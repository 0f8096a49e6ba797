//! Organisations in the store: rows of the installation's own organisation.

use std::sync::LazyLock;

use agentry_domain::orgs::{INSTALLATION_ORG, OrgBody};
use agentry_domain::{OrgId, Tier};

use crate::resources::{Column, Statements, Table};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::{Result, Store, StoreError};

statements! {
    // There are few, and each is meant.
    scan ORG_IDS = "select id from org order by id";
    ORG_TIER = "select tier from org where org = $1 and id = $2";
}

/// Which organisations a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgFilter {
    /// Exactly this name.
    pub name: Option<String>,
}

impl Table for OrgBody {
    const TABLE: &'static str = "org";
    const COLUMNS: &'static [Column] = &[Column::filter("name"), Column::plain("tier")];
    const COUNTER: &'static str = "orgs";
    type Filter = OrgFilter;

    fn columns(&self) -> Vec<Value> {
        values![&self.name, self.tier.as_str()]
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
    /// How much an organisation may ask for; none when there is no such one.
    pub async fn org_tier(&self, id: OrgId) -> Result<Option<Tier>> {
        self.point(&ORG_TIER, values![INSTALLATION_ORG, id], tier).await
    }

    /// Every organisation: for work that is done for the whole installation.
    pub async fn org_ids(&self) -> Result<Vec<OrgId>> {
        self.scan(&ORG_IDS, values![], |row| Ok(OrgId::from_bytes(row.id()?))).await
    }
}

pub(crate) fn tier(row: &mut Columns<'_>) -> Result<Tier> {
    Tier::parse(&row.text()?).ok_or_else(|| StoreError::unreadable("a tier"))
}

//! Organisations: only the installation's owner makes them and sees them all.

use agentry_domain::orgs::{INSTALLATION_ORG, Org, OrgBody};
use agentry_domain::{
    Caller, Code, Document, Done, Error, Once, OrgId, Page, PageRequest, Result, Role,
};
use agentry_store::OrgFilter;

use crate::Engine;

/// Refuses everybody but the installation's owner.
pub(crate) fn is_installation_owner(caller: &Caller) -> Result<()> {
    if caller.org == INSTALLATION_ORG && caller.role == Role::Owner {
        return Ok(());
    }
    Err(Error::new(Code::Forbidden, "only the installation's owner may reach organisations"))
}

impl Engine {
    /// Makes an organisation; its first key is made with its `org_id`.
    pub async fn org_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: OrgBody,
    ) -> Result<Done<Document<OrgBody>>> {
        is_installation_owner(caller)?;
        self.resource_create(caller, once, body).await
    }

    /// Changes an organisation. Another tier holds for its keys within a second.
    pub async fn org_update(
        &self,
        caller: &Caller,
        id: OrgId,
        if_match: Option<i64>,
        change: impl Fn(&Org) -> Result<OrgBody> + Sync,
    ) -> Result<Document<OrgBody>> {
        is_installation_owner(caller)?;
        self.resource_update(caller, id, if_match, change).await
    }

    /// The organisation with this id.
    pub async fn org_get(&self, caller: &Caller, id: OrgId) -> Result<Document<OrgBody>> {
        is_installation_owner(caller)?;
        self.resource_get(caller, id).await
    }

    /// A page of organisations.
    pub async fn org_list(
        &self,
        caller: &Caller,
        filter: &OrgFilter,
        page: &PageRequest,
    ) -> Result<Page<Document<OrgBody>>> {
        is_installation_owner(caller)?;
        self.resource_list(caller, filter, page).await
    }
}
